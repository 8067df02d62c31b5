"""PostgreSQL: connections with every option that matters spelled out."""

import asyncpg
import orjson

from schemas.errors import TransientError

# What a caller may try again: the server is away, restarting, or broke off a statement for somebody else's sake.
TRANSIENT = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.TransactionRollbackError,  # deadlock, serialization failure
    asyncpg.OperatorInterventionError,  # shutdown, crash of a neighbour, starting up
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    TimeoutError,
)


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )


async def _keep(_connection: asyncpg.Connection) -> None:
    """Reset nothing: no statement of ours changes its session, and a reset is a round trip after each of them."""


async def open_pool(dsn: str, *, name: str, connections_max: int) -> asyncpg.Pool:
    """
    Return a pool of up to *connections_max* connections.

    It opens one connection at once, so a wrong address is found at start.
    Args:
        name: shown in pg_stat_activity.
    Raises:
        TransientError: the server cannot be reached or is not ready yet.
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
            },
        )
    except TRANSIENT as error:
        raise TransientError(f"Postgres cannot be reached: {type(error).__name__}") from error
