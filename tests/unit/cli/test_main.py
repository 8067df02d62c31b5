"""The table of commands."""

import importlib
import json
import subprocess
import sys

import pytest
import typer

from infra.cli import __main__ as cli
from infra.cli.output import EXIT_MEANINGS, Exit
from tests.processes import ROOT


def test_help_names_every_command_and_every_exit_code(capsys):
    assert cli.run_relevo(["--help"]) == Exit.OK
    said = " ".join(capsys.readouterr().out.split())
    for name, (_, meaning) in cli.COMMANDS.items():
        assert f"{name} {meaning}" in said.replace("│ ", "").replace(" │", "")
    for code, meaning in EXIT_MEANINGS.items():
        assert f"{code.value} {meaning}" in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_there_explains_itself_and_speaks_json(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    command = getattr(module, name)
    groups = {"topics": ["apply"], "db": ["upgrade"], "dlq": ["list"], "webhooks": ["show"]}
    inner = [name, *groups.get(name, [])]
    assert isinstance(command, typer.Typer) == (len(inner) == 2)
    assert cli.run_relevo([*inner, "--help"]) == Exit.OK
    assert "--json" in capsys.readouterr().out


def test_help_waits_for_no_library_of_a_command():
    heavy = "confluent_kafka aiokafka asyncpg sqlalchemy alembic redis aiosmtplib pydantic psutil"
    code = (
        "import sys, infra.cli.__main__ as cli\n"
        "cli.run_relevo(['--help'])\n"
        f"sys.stderr.write(' '.join(set({heavy.split()}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""


def test_a_command_whose_package_is_missing_says_so_and_the_others_work(monkeypatch, capsys):
    def without_psutil(module: str):
        raise ModuleNotFoundError("No module named 'psutil'", name="psutil")

    monkeypatch.setattr(cli.importlib, "import_module", without_psutil)
    assert cli.run_relevo(["up", "--json"]) == Exit.CONFIGURATION
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "not_installed"


def test_no_command_and_an_unknown_one_are_usage_errors(capsys):
    assert cli.run_relevo(["fly"]) == Exit.USAGE
    assert cli.run_relevo(["fly", "--json"]) == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
