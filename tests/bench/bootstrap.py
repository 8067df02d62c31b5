"""The peers' own environment, `.venv-bench`, from its own hashed lock: no part of relevo."""

import hashlib
import subprocess
import sys

from tests.processes import ROOT

LOCK = ROOT / "requirements" / "bench.txt"
PLACE = ROOT / ".venv-bench"


def ensure_environment() -> None:
    """Make it, or leave it alone when it was made from this very lock."""
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    mark = PLACE / "lock.sha256"
    if mark.is_file() and mark.read_text() == wanted:
        return
    sys.stderr.write("Making .venv-bench for the peers.\n")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(PLACE)], check=True)
    subprocess.run(
        [PLACE / "bin" / "python", "-m", "pip", "install", "-q", "--require-hashes", "-r", str(LOCK)], check=True
    )
    mark.write_text(wanted)
