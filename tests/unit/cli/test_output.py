"""Exit codes, errors and JSON: the same for every command."""

import json

import pytest
import typer

from infra.cli.output import EXIT_CODES_TEXT, AsJson, CommandError, Exit, print_json, run
from schemas.errors import ConfigurationError, TransientError


def command(error: Exception | None = None, answer: object = None):
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def only(*, number: int = 0, as_json: AsJson = False) -> None:
        if error is not None:
            raise error
        if answer is not None:
            print_json(answer)

    return app


FAILURES = [
    (CommandError(Exit.FAILED, "no_outcome", "Nothing came", "Wait."), 1, "no_outcome"),
    (TransientError("Kafka cannot be reached"), 69, "unavailable"),
    (ConfigurationError("RELEVO_X is wrong"), 78, "configuration"),
]


@pytest.mark.parametrize(("error", "code", "name"), FAILURES)
def test_an_expected_failure_is_a_sentence_and_an_exit_code(error, code, name, capsys):
    assert run(command(error), []) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{error}.")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(("error", "code", "name"), FAILURES)
def test_with_json_a_failure_is_one_document_and_nothing_else(error, code, name, capsys):
    assert run(command(error), ["--json"]) == code
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["error"].keys() == {"code", "detail", "remedy"}
    assert (found["error"]["code"], found["error"]["detail"]) == (name, str(error))
    assert captured.err == ""


def test_a_mistake_in_the_arguments_is_told_in_json_too(capsys):
    assert run(command(), ["--number", "many", "--json"]) == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
    assert run(command(), ["--number", "many"]) == Exit.USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_is_not_dressed_up(capsys):
    with pytest.raises(ZeroDivisionError):
        run(command(ZeroDivisionError("oh")), ["--json"])
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "internal"


def test_an_answer_is_one_line_of_json(capsys):
    assert run(command(answer={"a": [1, 2]}), ["--json"]) == Exit.OK
    assert capsys.readouterr().out == '{"a":[1,2]}\n'


def test_every_exit_code_is_explained():
    assert all(f"{code.value} " in EXIT_CODES_TEXT for code in Exit)
