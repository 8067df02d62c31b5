"""`relevo db upgrade`: the database as schemas.tables wants it, by the migrations of schemas.migrations."""

import asyncio

import typer
from sqlalchemy.exc import DBAPIError

from infra.cli.output import AsJson, print_json
from infra.cli.waiting import wait_for_server
from infra.cli.where import find_place, without_password
from infra.migrate import upgrade as migrate
from schemas.errors import ConfigurationError, TransientError

db = typer.Typer(no_args_is_help=True, help="The tables in PostgreSQL.")

# Classes of SQLSTATE that a person must mend: wrong login, no such database, no right to.
_REFUSALS = ("28", "3D", "42501")


@db.callback()
def _group() -> None:
    """The tables in PostgreSQL."""


@db.command("upgrade")
def upgrade(*, as_json: AsJson = False) -> None:
    """
    Bring the tables to the newest revision. Repeatable; two at the same time are harmless.

    Waits up to 30 s for PostgreSQL.
    """
    place = find_place()
    dsn = place.settings.postgres_dsn
    server = f"PostgreSQL at {without_password(dsn)}"
    before, after = wait_for_server(
        server, place.remedy("RELEVO_POSTGRES_DSN"), lambda left_s: asyncio.run(_upgrade(dsn, server, left_s))
    )
    if as_json:
        print_json({"before": before, "after": after, "changed": before != after})
    elif before == after:
        print(f"The tables are at revision {after} already.")
    else:
        print(f"The tables are at revision {after} now; before: {before or 'none'}.")


async def _upgrade(dsn: str, server: str, timeout_s: float) -> tuple[str | None, str]:
    try:
        async with asyncio.timeout(timeout_s):
            return await migrate(dsn)
    except TimeoutError:
        raise TransientError("it took the connection and did not answer") from None
    except DBAPIError as error:
        code = str(getattr(error.orig, "sqlstate", None) or "")
        if code.startswith(_REFUSALS):
            raise ConfigurationError(f"{server} refuses: {_first_line(error)}.") from error
        raise TransientError(_first_line(error)) from error


def _first_line(error: DBAPIError) -> str:
    text = str(error.orig).strip().splitlines()
    return text[0].rpartition("'>: ")[2] if text else type(error).__name__
