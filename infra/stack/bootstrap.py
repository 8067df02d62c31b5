"""
Make `.venv` from the hashed lock, when it is not there yet or the lock has changed.

Run by the Makefile with whatever `python3` is, before anything is installed: standard library only, and written so
that an old Python (3.7) can read it and say that it is too old.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, NoReturn

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = CHECKOUT / "requirements" / "dev.txt"
MARK = VENV / "relevo-lock.sha256"
PIP_LOG = VENV / "relevo-pip.log"
GUARD = VENV / "relevo-bootstrap.lock"

OLDEST, NEWEST = (3, 11), (3, 14)
FREE_BYTES_MIN = 1200 * 1024 * 1024
LINE_S = 5.0

ENTRY_POINT = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
# Both a shell and a Python script, because the path of the interpreter may be longer than a first line may be.
import sys

from infra.cli.__main__ import main

sys.exit(main())
"""


def main() -> None:
    """Make the environment; end with one sentence when that is not possible."""
    began_s = time.monotonic()
    use_a_fitting_python()
    try:
        VENV.mkdir(exist_ok=True)
        with GUARD.open("a") as guard:
            wait_for_my_turn(guard)
            made = make_environment()
            make_importable()
    except OSError as error:
        refuse(
            f"{VENV} cannot be written ({error.strerror}): "
            + ("free some space." if error.errno == errno.ENOSPC else "give this user the right to write there.")
        )
    if made:
        say(f"The environment in {VENV.name} is ready after {time.monotonic() - began_s:.0f} s.")


def use_a_fitting_python() -> None:
    """Go on with another Python when this one is too old or too new and a fitting one is on the path."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which(f"python3.{minor}")
        # Asked, not only found: a version switcher may put a name on the path that leads nowhere.
        if other and subprocess.call([other, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            os.execv(other, [other, "-I", *sys.argv])  # noqa: S606 -- the same program again, no shell needed
    refuse(
        f"relevo needs Python {dotted(OLDEST)} to {dotted(NEWEST)}, and {sys.executable} is "
        f"{dotted(sys.version_info[:2])}. Install one of these, or name one: make up PYTHON=/path/to/python3"
    )


def wait_for_my_turn(guard: IO[str]) -> None:
    """Let one run at a time make the environment: `make up` and `make test` may begin together."""
    try:
        import fcntl  # noqa: PLC0415 -- missing where the servers have no binaries either
    except ImportError:
        refuse("The local stack runs on Linux and macOS. On Windows use a Linux of its subsystem for Linux.")
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say("Another run is making the environment; waiting for it.")
        fcntl.flock(guard, fcntl.LOCK_EX)


def make_environment() -> bool:
    """Bring `.venv` to the lock. Returns False when it was there already."""
    wanted = mark()
    if read(MARK) == wanted and works():
        return False
    free = shutil.disk_usage(VENV).free
    if free < FREE_BYTES_MIN and not works():
        refuse(
            f"The disk that holds {VENV} has {free // 2**20} MB free and the environment needs "
            f"{FREE_BYTES_MIN // 2**20} MB. Free some space and run it again."
        )
    MARK.unlink(missing_ok=True)
    if not works():
        make_venv()
    install()
    MARK.write_text(wanted)
    return True


def mark() -> str:
    """Return what the environment was made from: the lock, the version of Python, and the place, which scripts name."""
    text = LOCK.read_bytes() + f"{dotted(sys.version_info[:2])} {VENV}".encode()
    return hashlib.sha256(text).hexdigest()


def works() -> bool:
    """Tell whether the environment has an interpreter of this version that runs, and pip."""
    try:
        check = f"import sys, pip; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])!r})"
        return subprocess.call([str(PYTHON), "-c", check], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_venv() -> None:
    """Make an empty environment in place of what is there."""
    say(f"Making {VENV.name} with Python {dotted(sys.version_info[:3])}.")
    for part in VENV.iterdir():
        if part != GUARD:  # held open by us; a new file of that name would guard nothing
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "venv", str(VENV)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        output = done.stdout.decode(errors="replace").strip()
        if "No space left" in output:
            refuse(f"The disk that holds {VENV} is full. Free some space and run it again.")
        version = dotted(sys.version_info[:2])
        refuse(
            f"This Python ({sys.executable}) cannot make environments, because a part of it is missing: "
            f"{'ensurepip' if 'ensurepip' in output else 'venv'}. On Debian and Ubuntu: "
            f"apt install python{version}-venv. Elsewhere name a complete one: make up PYTHON=/path/to/python3"
            + (f"\n{output}" if "ensurepip" not in output else "")
        )


def install() -> None:
    """Install the lock, every file checked against its sum, and show how far it is."""
    command = [str(PYTHON), "-m", "pip", "install", "--require-hashes", "--no-deps", "--retries", "2"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "--no-input", "-r", str(LOCK)]
    progress = Progress(LOCK.read_text().count("=="))
    # Not one `with` of two: a Python too old for its brackets must be able to read this file.
    pip = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=str(CHECKOUT)
    )
    with PIP_LOG.open("w") as log:
        for line in pip.stdout or ():
            log.write(line)
            progress.see(line)
    progress.end()
    pip.wait()
    if pip.returncode:
        refuse(why_not(read(PIP_LOG)))


def why_not(output: str) -> str:
    """Return what to do about a failed installation, from what pip said."""
    end = f"(all that pip said: {PIP_LOG})"
    if "No space left" in output:
        return f"The disk is full: the packages need about 1 GB. Free some space and run it again {end}."
    if "HASHES" in output.upper() and "DO NOT MATCH" in output.upper():
        return f"A package has another sum than {LOCK.name} demands and was not installed {end}."
    signs = ("NewConnectionError", "Name or service", "Temporary failure", "timed out", "ProxyError", "Max retries")
    if any(sign in output for sign in signs):
        return (
            "The packages could not be downloaded, because the package index does not answer. The first run needs the "
            f"network: connect, or set PIP_INDEX_URL to a mirror, and run it again {end}."
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return f"The packages could not be installed: {errors[-1] if errors else 'no reason given'} {end}"


class Progress:
    """Counts the packages that pip speaks of: in place on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._said_s = 0.0
        self._in_place = sys.stdout.isatty()

    def see(self, line: str) -> None:
        """Take in one line of pip's output."""
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self._count += 1
            self._tell(f"Downloading packages: {self._count} of about {self._total}")
        elif line.startswith("Installing collected packages"):
            self._tell("Installing them, which takes a while", always=True)

    def end(self) -> None:
        """Leave the line."""
        if self._in_place:
            sys.stdout.write("\n")

    def _tell(self, text: str, *, always: bool = False) -> None:
        now_s = time.monotonic()
        if self._in_place:
            sys.stdout.write(f"\r{text:<70}")
            sys.stdout.flush()
        elif always or now_s - self._said_s > LINE_S:
            self._said_s = now_s
            say(text)


def make_importable() -> None:
    """Put the checkout on the path of its environment, and the command `relevo` into it."""
    packages = next(VENV.glob("lib/python3*/site-packages"))
    write_if_other(packages / "relevo.pth", f"{CHECKOUT}\n")
    command = VENV / "bin" / "relevo"
    write_if_other(command, ENTRY_POINT.format(python=PYTHON))
    command.chmod(0o755)


def write_if_other(path: Path, text: str) -> None:
    """Write a file in one step, unless it says this already: a run beside this one may be reading it."""
    if read(path) != text:
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(text)
        fresh.replace(path)


def read(path: Path) -> str:
    """Return the text of a file; empty when there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(str(number) for number in version)


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, flush=True)


def refuse(sentence: str) -> NoReturn:
    """End with a sentence that says what to do."""
    sys.stderr.write(f"\n{sentence}\n")
    sys.exit(1)


if __name__ == "__main__":
    main()
