"""PostgreSQL: connections with every option that matters spelled out."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import asyncpg
import orjson

from schemas.errors import ConfigurationError, TransientError

# What a person must mend before a connection is granted, and what there is to mend.
_REMEDIES: tuple[tuple[type[Exception], str], ...] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "correct user and password in it, or let pg_hba.conf admit them"),
    (asyncpg.InvalidCatalogNameError, "create that database, or correct its name"),
    (asyncpg.InsufficientPrivilegeError, "grant that user CONNECT on the database"),
    (
        ssl.SSLCertVerificationError,
        "correct the host name, or let sslrootcert name the authority that signed the server's certificate",
    ),
    (asyncpg.ClientConfigurationError, "correct it"),
)
_REFUSED = tuple(kind for kind, _ in _REMEDIES)

# At start a person must mend these, too (see `open_pool`). Later somebody is changing a password or restoring the
# database under us: to end would not help, and to go on when it is done does.
LOGIN_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)

# What a caller may try again: the server is away, restarting, or broke off a statement for somebody else's sake.
TRANSIENT = (
    *LOGIN_REFUSED,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.OperatorInterventionError,  # shutdown, crash of a neighbour, starting up
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    TimeoutError,
)


# For whoever finds rows by their ids, few or five hundred in one statement. A plan is made once: to make one anew for
# each call costs more than to run it, and one that was made for other numbers of rows (in a join of two lists each row
# looks at each row; a short partial index is read from end to end for each statement) has cost twenty times as much.
# So nothing is left to choose: each id is looked up in the index of ids, whatever the statistics say just now.
LOOKUPS = MappingProxyType(
    {
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
    }
)


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )


async def _keep(_connection: asyncpg.Connection) -> None:
    """Reset nothing: no statement of ours changes its session, and a reset is a round trip after each of them."""


async def open_pool(
    dsn: str, *, name: str, connections_max: int, settings: Mapping[str, str] = MappingProxyType({})
) -> asyncpg.Pool:
    """
    Return a pool of up to *connections_max* connections.

    It opens one connection at once, so a wrong address is found at start.
    Args:
        name: shown in pg_stat_activity.
        settings: of PostgreSQL, for each of these connections, beside those that all have.
    Raises:
        TransientError: the server cannot be reached or is not ready yet.
        ConfigurationError: it refuses us, or the address makes no sense; says what to mend.
    """
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=connections_max,
            command_timeout=10.0,
            timeout=5.0,
            max_inactive_connection_lifetime=300.0,
            init=_prepare,
            reset=_keep,
            server_settings={
                "application_name": name,
                "statement_timeout": "8000",  # below command_timeout: the server gives up first, and says so
                "idle_in_transaction_session_timeout": "10000",
                # Our statements are few and prepared; compiling them costs more than it saves.
                "jit": "off",
                "timezone": "UTC",
                **settings,
            },
        )
    except _REFUSED as error:
        raise ConfigurationError(_refusal(error)) from error
    except ValueError as error:
        # Without its text: that may hold a part of the address, and so of the password.
        form = "postgresql://user:password@host:port/database"
        raise ConfigurationError(f"RELEVO_POSTGRES_DSN cannot be read; it must look like {form}") from error
    except TRANSIENT as error:
        raise TransientError(f"Postgres cannot be reached: {type(error).__name__}") from error


def _refusal(error: Exception) -> str:
    remedy = next(remedy for kind, remedy in _REMEDIES if isinstance(error, kind))
    # Only its first line: what follows are hints for whoever writes SQL.
    said = getattr(error, "verify_message", None) or (str(error.args[0]) if error.args else type(error).__name__)
    return f"RELEVO_POSTGRES_DSN: {said}; {remedy}"


async def fetch(pool: asyncpg.Pool, sql: str, *arguments: object) -> list[asyncpg.Record]:
    """
    Run one statement, which is one transaction, and return its rows.

    Raises:
        TransientError: the server is away, slow, or broke off. Whether a statement that writes did so is not known.
    """
    try:
        async with _connection(pool) as connection:
            found: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
            return found
    except TRANSIENT as error:
        raise TransientError(f"Postgres: {type(error).__name__}") from error


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[Any]:
    """
    Yield a connection inside one transaction, which is committed at the end, or rolled back when anything is raised.

    Raises:
        TransientError: the server is away, slow, or broke off. Whether it was committed is not known.
    """
    try:
        async with _connection(pool) as connection, connection.transaction():
            yield connection
    except TRANSIENT as error:
        raise TransientError(f"Postgres: {type(error).__name__}") from error


@asynccontextmanager
async def _connection(pool: asyncpg.Pool) -> AsyncIterator[Any]:
    async with pool.acquire(timeout=5.0) as connection:
        try:
            yield connection
        except BaseException as error:
            # A server that hangs answers a cancellation no sooner than a query: without this the pool would wait
            # for it, with the connection that is needed elsewhere.
            if not isinstance(error, asyncpg.PostgresError):
                connection.terminate()
            raise
