"""The database is brought to the newest revision by whoever comes first."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from infra.migrate import current_revision, newest_revision, upgrade
from infra.stack.ports import free_port
from schemas.errors import TransientError
from schemas.tables import METADATA


@pytest.fixture
async def dsn(servers):
    """An empty database."""
    name = f"test_{uuid4().hex[:8]}"
    connection = await asyncpg.connect(servers.postgres_dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    yield servers.postgres_dsn.rpartition("/")[0] + "/" + name
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


async def test_an_empty_database_gets_all_tables_and_the_second_time_nothing_changes(dsn):
    assert await current_revision(dsn) is None
    assert await upgrade(dsn) == (None, newest_revision())
    assert await upgrade(dsn) == (newest_revision(), newest_revision())
    connection = await asyncpg.connect(dsn)
    found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert {row["tablename"] for row in found} == set(METADATA.tables) | {"alembic_version"}


async def test_two_at_once_wait_for_each_other(dsn):
    found = await asyncio.gather(*(asyncio.to_thread(asyncio.run, upgrade(dsn)) for _ in range(3)))
    assert sorted(found, key=str) == sorted([(None, newest_revision())] + [(newest_revision(),) * 2] * 2, key=str)


@pytest.mark.parametrize(
    "options", ["?sslmode=prefer", "?application_name=relevo", "?sslmode=disable&application_name=x"]
)
async def test_an_address_may_have_options_as_the_services_take_them(dsn, options):
    assert await upgrade(dsn + options) == (None, newest_revision())


async def test_the_shorter_scheme_will_do(dsn):
    assert await upgrade(dsn.replace("postgresql://", "postgres://")) == (None, newest_revision())


@pytest.mark.parametrize(
    "error", [asyncpg.CannotConnectNowError("starting up"), asyncpg.TooManyConnectionsError("full")]
)
async def test_a_server_that_is_not_ready_yet_is_a_passing_error(monkeypatch, error):
    async def connect(*_given, **_options):
        raise error

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(TransientError, match="Postgres cannot be reached"):
        await upgrade("postgresql://relevo@127.0.0.1/relevo")


async def test_a_connection_that_breaks_in_the_middle_is_a_passing_error(dsn, monkeypatch):
    def disconnected(_config, _revision):
        raise DBAPIError("", (), _translated(asyncpg.ConnectionDoesNotExistError("gone")))

    monkeypatch.setattr("infra.migrate.command.upgrade", disconnected)
    with pytest.raises(TransientError):
        await upgrade(dsn)


def _translated(error):
    """Return *error* as SQLAlchemy dresses it."""
    dressed = Exception(str(error))
    dressed.__cause__ = error
    return dressed


async def test_a_password_that_is_wrong_is_not_waited_for(monkeypatch):
    async def connect(*_given, **_options):
        raise asyncpg.InvalidPasswordError("password authentication failed")

    monkeypatch.setattr(asyncpg, "connect", connect)
    with pytest.raises(DBAPIError):
        await upgrade("postgresql://relevo@127.0.0.1/relevo")


async def test_a_server_that_is_away_is_a_passing_error():
    with pytest.raises(TransientError, match="Postgres cannot be reached"):
        await upgrade(f"postgresql://relevo@127.0.0.1:{free_port()}/relevo")
