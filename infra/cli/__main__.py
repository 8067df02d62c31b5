"""
`relevo`: the table of commands, and how one of them is run.

Only the module of the command that is run is imported, so that `relevo --help` and every other command are quick, and
so that an image without the packages of the local stack still has all other commands.
"""

import contextlib
import importlib
import os
import sys
from typing import NoReturn

import typer

from infra.cli.output import EXIT_CODES_TEXT, CommandError, Exit, run

# By name: the module that has it, under the same name, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("infra.cli.stack", "Start the local stack, or what is missing of it."),
    "down": ("infra.cli.stack", "End the local stack; the data stays."),
    "status": ("infra.cli.stack", "Show what of the local stack runs, and whether each part answers."),
    "doctor": ("infra.cli.doctor", "Find what is wrong, and say what to do."),
    "audit": ("infra.cli.audit", "Count: what was accepted is finished or in flight."),
    "send": ("infra.cli.send", "Send one notification."),
    "show": ("infra.cli.show", "Show what became of one notification."),
    "tail": ("infra.cli.tail", "Follow the outcomes, or another topic."),
    "export": ("infra.cli.export", "Write outcomes to a file, CSV or Parquet."),
    "replay": ("infra.cli.replay", "Send again what did not arrive."),
    "dlq": ("infra.cli.dlq", "Dead letters: list, show, replay, discard."),
    "webhooks": ("infra.cli.webhooks", "Your webhook: set, show, rotate, remove, test, resend, deliveries."),
    "topics": ("infra.cli.topics", "Kafka's topics: apply."),
    "db": ("infra.cli.db", "The tables in PostgreSQL: upgrade."),
}

_HELP = "relevo: takes a notification request, hands it on until it is delivered, and says what happened."


def make_app(chosen: str | None) -> typer.Typer:
    """
    Return the command line.

    Args:
        chosen: the command to be run, which alone is loaded; of the others only name and meaning are there.
    Raises:
        CommandError: it needs a package that is not installed.
    """
    app = typer.Typer(
        name="relevo", help=_HELP, epilog=EXIT_CODES_TEXT, no_args_is_help=True, add_completion=False,
        pretty_exceptions_enable=False, callback=_root,
    )  # fmt: skip
    for name, (module, meaning) in COMMANDS.items():
        if name != chosen:
            app.command(name, help=meaning)(_not_loaded)
            continue
        command = _load(module, name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, epilog=EXIT_CODES_TEXT)
        else:
            app.command(name, epilog=EXIT_CODES_TEXT)(command)
    return app


def _root() -> None:
    """Nothing is common to all commands."""


def _not_loaded() -> None:
    raise AssertionError("only the chosen command is run")


def _load(module: str, name: str) -> typer.Typer:
    try:
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]  # looked up by name
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("infra"):
            raise
        raise CommandError(
            Exit.CONFIGURATION,
            "not_installed",
            f"`relevo {name}` needs the package {missing.name}, which is not installed here.",
            "In a checkout, `make setup` installs it.",
        ) from missing


def run_relevo(arguments: list[str]) -> int:
    """Run the command line with *arguments* and return the exit code."""
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    return run(lambda args, **options: make_app(chosen)(args, prog_name="relevo", **options), arguments)


def main() -> NoReturn:
    """Run `relevo`."""
    code = run_relevo(sys.argv[1:])
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    # Not sys.exit: a thread of a client that hangs on a dead server would keep the process alive.
    os._exit(code)


if __name__ == "__main__":
    main()
