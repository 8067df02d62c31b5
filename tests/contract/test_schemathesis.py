"""schemathesis against the live service: whatever it makes up, the service keeps its contract."""

import os
import subprocess
import sys

import pytest
import yaml

from tests.contract.conftest import KEY
from tests.processes import ROOT

HERE = ROOT / "tests" / "contract"

METHODS = {"get", "post", "put", "patch", "delete", "options"}


@pytest.mark.timeout(300)
def test_schemathesis_finds_nothing(door, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "--no-color"),
            *("run", str(ROOT / "openapi.yaml"), "--url", door.url, "-H", f"Authorization: Bearer {KEY}"),
            *("--checks", "all", "--max-examples", "40", "--continue-on-failure"),
            # DELETE calls off; what was called off can still be looked up.
            *("--exclude-checks", "use_after_free"),
        ],
        # It leaves folders where it runs.
        cwd=tmp_path,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.contract.hooks", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    paths = yaml.safe_load((ROOT / "openapi.yaml").read_text())["paths"].values()
    assert f"Tested: {sum(len(METHODS & item.keys()) for item in paths)}\n" in done.stdout
    assert not [line for line in door.log.read_text().splitlines() if '"level":"error"' in line]
