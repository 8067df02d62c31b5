"""
What every command shares: exit codes, errors, and JSON on standard output.

With --json exactly one JSON document (`tail`: one object per line) goes to standard output, an error too; whatever
else there is to say goes to standard error. Without it, an error is one sentence on standard error, and what to do.
"""

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.text import Text

from schemas.errors import ConfigurationError, TransientError


class Exit(IntEnum):
    """How a command ends; see EXIT_MEANINGS. The larger ones are those of sysexits.h."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    CONFIGURATION = 78
    INTERRUPTED = 130


EXIT_MEANINGS: dict[Exit, str] = {
    Exit.OK: "good",
    Exit.FAILED: "something is wrong, or did not succeed",
    Exit.USAGE: "the command was not understood",
    Exit.UNAVAILABLE: "a server cannot be reached; trying again may help",
    Exit.CONFIGURATION: "the configuration must be mended first",
    Exit.INTERRUPTED: "interrupted",
}

EXIT_CODES_TEXT = "Exit codes: " + "; ".join(f"{code.value} {meaning}" for code, meaning in EXIT_MEANINGS.items()) + "."

STATUS_STYLE = {
    "sent": "green",
    "retrying": "yellow",
    "failed": "red",
    "bounced": "red",
    "rejected": "red",
    "in_doubt": "bold magenta",
}

# undefined_column and undefined_table of PostgreSQL: the migrations have not been applied, or not all of them. Told by
# the code, because to import the driver would make every command slower.
_TABLES_ARE_OLD = frozenset({"42703", "42P01"})

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else.")]


class CommandError(Exception):
    """
    A failure that was to be expected: a sentence, and what to do about it.

    Args:
        code: stable, for programs.
        detail: what is wrong, for people.
        remedy: what to do; may be empty when the detail says it.
    """

    def __init__(self, exit_code: Exit, code: str, detail: str, remedy: str = "") -> None:
        super().__init__(detail)
        self.exit_code, self.code, self.detail, self.remedy = exit_code, code, detail, remedy

    @classmethod
    def of(cls, error: Exception) -> "CommandError | None":
        """Return *error* as an error of a command; None: it was not to be expected, so it is a bug."""
        match error:
            case CommandError():
                return error
            case ConfigurationError():
                return cls(Exit.CONFIGURATION, "configuration", str(error))
            case TransientError():
                remedy = "`relevo doctor` says which server does not answer, and what to do."
                return cls(Exit.UNAVAILABLE, "unavailable", str(error), remedy)
        if getattr(error, "sqlstate", None) in _TABLES_ARE_OLD:
            detail = f"The tables of the database are not those of this code: {error}"
            return cls(Exit.CONFIGURATION, "tables", detail, "Run `relevo db upgrade`.")
        return None


def print_json(document: Any) -> None:
    """Print one JSON document, on one line."""
    _write(orjson.dumps(document).decode())


def print_line(text: str, status: object = None) -> None:
    """Print one line of an answer; on a terminal in the colour of the *status* that it tells of."""
    style = STATUS_STYLE.get(str(status))
    if style is None or not sys.stdout.isatty():
        _write(text)
    else:
        Console(highlight=False).print(Text(text, style), soft_wrap=True)


def _write(line: str) -> None:
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough: `relevo tail | head`. What is still in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Exit.OK) from None


def say(sentence: str) -> None:
    """Tell a person something that is not the answer: it goes to standard error."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


def run(app: Callable[..., Any], arguments: list[str]) -> int:
    """
    Run *app* (a typer.Typer) with *arguments* and return its exit code.

    Errors that were to be expected become one sentence, or JSON. Everything else is a bug: it raises, with a
    traceback; with --json it is told as JSON as well.
    """
    # Before the arguments are parsed: that they cannot be parsed is told in JSON, too.
    as_json = "--json" in arguments
    try:
        # Without --json typer shows usage errors itself, and ends the process.
        return int(app(arguments, standalone_mode=not as_json) or Exit.OK)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.FAILED
    except typer.TyperException as error:
        # typer does not say so in its types: these are its usage errors.
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        _tell(CommandError(Exit.USAGE, "usage", message, "`relevo --help` explains."), as_json=as_json)
        return Exit.USAGE
    except typer.Abort:
        return Exit.INTERRUPTED
    except Exception as error:
        known = CommandError.of(error)
        if known is None:
            if as_json:
                _tell(CommandError(Exit.FAILED, "internal", f"{type(error).__name__}: {error}"), as_json=True)
            raise
        _tell(known, as_json=as_json)
        return known.exit_code


def _tell(error: CommandError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"code": error.code, "detail": error.detail, "remedy": error.remedy}})
    else:
        sentence = error.detail if error.detail.endswith((".", "?", "!")) else f"{error.detail}."
        say(f"{sentence}{f' {error.remedy}' if error.remedy else ''}")
