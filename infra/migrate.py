"""Migrations: the database is brought to what schemas.tables says by a command, never by a service at its start."""

from collections.abc import Callable
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import schemas
from infra.postgres import LOGIN_REFUSED, TRANSIENT
from schemas.errors import TransientError

# Two that migrate at the same time wait for each other here: the number means nothing, it is only ours.
_LOCK = 7_305_118


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.__file__).parent / "migrations"))
    return config


def newest_revision() -> str:
    """Return the revision that this code was written for."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there is at least one migration"
    return newest


async def upgrade(dsn: str) -> tuple[str | None, str]:
    """
    Bring the database to the newest revision. Repeatable; two at the same time are harmless.

    Returns:
        (revision before, None on an empty database; revision after).
    Raises:
        TransientError: the server cannot be reached.
    """

    def run(connection: Connection) -> str | None:
        connection.exec_driver_sql("SET lock_timeout = '4s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
        before = MigrationContext.configure(connection).get_current_revision()
        connection.commit()
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before

    return await _with_connection(dsn, run), newest_revision()


async def current_revision(dsn: str) -> str | None:
    """
    Return the revision of the database; None: it has no tables yet.

    Raises:
        TransientError: the server cannot be reached.
    """
    return await _with_connection(dsn, lambda connection: MigrationContext.configure(connection).get_current_revision())


async def _with_connection(dsn: str, run: Callable[[Connection], str | None]) -> str | None:
    # The driver itself reads the address, as it does for the services: SQLAlchemy's reading knows no ?sslmode=.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn, timeout=5.0), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(run)
            await connection.commit()
            return found
    except (*TRANSIENT, DBAPIError) as error:
        # SQLAlchemy dresses what the driver raises, also while connecting.
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
        # A command has a person before it, who is told at once that the login is refused.
        if isinstance(cause, LOGIN_REFUSED) or not isinstance(cause, TRANSIENT):
            raise
        raise TransientError(f"Postgres cannot be reached: {type(cause).__name__}: {cause}") from error
    finally:
        await engine.dispose()
