"""The probes of /healthz: a real answer of each server, on connections that nothing else uses."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import asyncpg
from confluent_kafka.admin import AdminClient

from infra.redis import open_redis
from schemas.topics import REQUESTED

# Below the second after which the last answer no longer counts.
_ANSWER_S_MAX = 0.8


class PostgresProbe:
    """Asks Postgres on a connection of its own, so that a busy pool is not mistaken for a server that is away."""

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._connection: asyncpg.Connection | None = None

    async def __call__(self) -> None:
        """Return when it answered; raise when it did not."""
        if self._connection is None or self._connection.is_closed():
            self._connection = await asyncpg.connect(
                self._dsn,
                timeout=_ANSWER_S_MAX,
                command_timeout=_ANSWER_S_MAX,
                server_settings={"application_name": f"{self._name}-health"},
            )
        try:
            await self._connection.execute("SELECT 1")
        except BaseException:
            self._connection.terminate()
            self._connection = None
            raise


class RedisProbe:
    """Asks Redis."""

    def __init__(self, url: str, *, name: str) -> None:
        self._redis = open_redis(url, name=f"{name}-health", timeout_s=_ANSWER_S_MAX)

    async def __call__(self) -> None:
        """Return when it answered; raise when it did not."""
        await self._redis.ping()


class KafkaProbe:
    """
    Asks a Kafka broker for metadata, in a thread of its own.

    A connection that stands proves nothing: the kernel keeps it open for a broker that is frozen.
    """

    def __init__(self, bootstrap: str, *, name: str) -> None:
        self._admin = AdminClient(
            {
                "bootstrap.servers": bootstrap,
                "client.id": f"{name}-health",
                "log_level": 0,
                # The default of 10 s between two tries would report a broker that is back as away.
                "reconnect.backoff.max.ms": 500,
                "socket.timeout.ms": 2_000,
            }
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-probe")

    async def __call__(self) -> None:
        """Return when it answered; raise when it did not."""
        await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._admin.list_topics(REQUESTED.name, timeout=_ANSWER_S_MAX)
        )
