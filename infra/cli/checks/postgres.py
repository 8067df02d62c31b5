"""PostgreSQL: does it answer, are the tables at the newest revision, what waits in the outbox."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

import schemas
from infra.cli.checks.finding import ANSWER_S_MAX, Finding, Report, info, ok, problem
from infra.cli.where import Place, without_password
from infra.settings import Settings

_ROWS_COUNTED_MAX = 100_000

_SETTING = "RELEVO_POSTGRES_DSN"

_WAITING = """
SELECT count(*) AS rows, coalesce(extract(epoch FROM now() - min(waiting.since)), 0)::float8 AS oldest_s
FROM (SELECT {since} AS since FROM {table} WHERE published_at IS NULL LIMIT $1) AS waiting
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Rows that Kafka has not acknowledged, counted up to _ROWS_COUNTED_MAX, and the age of the oldest."""

    rows: int
    oldest_s: float


def check_postgres(place: Place, report: Report) -> None:
    """Look at PostgreSQL."""
    asyncio.run(_check(place, report))


async def _check(place: Place, report: Report) -> None:
    dsn = place.settings.postgres_dsn
    where = without_password(dsn)
    try:
        connection = await asyncpg.connect(
            dsn,
            timeout=ANSWER_S_MAX,
            command_timeout=ANSWER_S_MAX,
            server_settings={"application_name": "relevo-doctor", "statement_timeout": "2000"},
        )
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        report(_unreachable(place, where, error))
        return
    try:
        version = ".".join(str(part) for part in connection.get_server_version()[:2])
        report(ok("postgres", f"PostgreSQL {version} answers at {where}"))
        revision = await _revision(connection)
        report(judge_revision(revision, newest_migration()))
        if revision is not None:
            report(judge_outbox(await _waiting(connection), place.settings))
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        report(problem("postgres", f"{where} stopped answering: {_sentence(error)}", place.remedy(_SETTING)))
    finally:
        # Not close(): a server that hangs would not answer that either.
        connection.terminate()


async def _revision(connection: asyncpg.Connection) -> str | None:
    try:
        found: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return found
    except asyncpg.UndefinedTableError:
        return None


async def _waiting(connection: asyncpg.Connection) -> Sequence[Waiting]:
    found = []
    for table, since in (("notifications", "accepted_at"), ("events", "occurred_at")):
        (row,) = await connection.fetch(_WAITING.format(table=table, since=since), _ROWS_COUNTED_MAX)
        found.append(Waiting(row["rows"], row["oldest_s"]))
    return found


def newest_migration() -> str:
    """
    Return the revision that this code was written for, from the names of its migrations.

    `infra.migrate` knows it, too, and takes a second and more to import, which is too long here; a test compares them.
    """
    folder = Path(schemas.__file__).parent / "migrations" / "versions"
    return max(file.name.partition("_")[0] for file in folder.glob("[0-9]*_*.py"))


def judge_revision(revision: str | None, newest: str) -> Finding:
    """Compare the revision of the database with the one that this code was written for."""
    if revision is None:
        return problem("tables", "the database has no tables yet", "Run `relevo db upgrade`.")
    if revision != newest:
        return problem(
            "tables",
            f"the tables are at revision {revision}, this code wants {newest}",
            "Run `relevo db upgrade`; if it does not know that revision, update this code: the tables are newer.",
        )
    return ok("tables", f"the tables are at the newest revision, {newest}")


def judge_outbox(waiting: Sequence[Waiting], settings: Settings) -> Finding:
    """Say what waits for Kafka: accepted notifications, and results. Beyond the bounds, the door refuses new ones."""
    accepted, results = waiting
    detail = f"waiting for Kafka: {_count(accepted, 'notifications')}, {_count(results, 'results')}"
    if accepted.rows >= settings.outbox_rows_max or accepted.oldest_s >= settings.outbox_age_s_max:
        return problem(
            "outbox",
            f"{detail}; the door refuses new ones",
            "Mend Kafka, or whatever keeps ingest from publishing: the log of ingest says what.",
        )
    return info("outbox", detail)


def _count(waiting: Waiting, what: str) -> str:
    more = "+" if waiting.rows == _ROWS_COUNTED_MAX else ""
    return f"{waiting.rows}{more} {what}{f' (oldest {waiting.oldest_s:.0f} s)' if waiting.rows else ''}"


def _unreachable(place: Place, where: str, error: Exception) -> Finding:
    detail = f"{where} ({place.origin(_SETTING)}) {_sentence(error)}"
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError() | asyncpg.InvalidPasswordError():
            return problem("postgres", detail, f"Correct user and password in {_SETTING}.")
        case asyncpg.InvalidCatalogNameError():
            return problem("postgres", detail, f"Create that database, or correct {_SETTING}.")
        case ValueError():
            return problem("postgres", f"{_SETTING} cannot be read", "It must look like postgresql://user@host/name.")
    return problem("postgres", detail, place.remedy(_SETTING))


def _sentence(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"does not answer within {ANSWER_S_MAX} s; it may hang"
        case ConnectionRefusedError():
            return "refuses connections; nothing listens there"
        case asyncpg.PostgresError():
            return f"says: {error.args[0] if error.args else type(error).__name__}"
    return f"cannot be reached: {error or type(error).__name__}"
