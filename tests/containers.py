"""
The servers in containers, for machines with an engine: `pytest --servers=containers`.

The same things can be done to them as to those of infra.stack.servers, so every test runs on either.
"""

import os
from collections.abc import Callable
from typing import Any

# Read when testcontainers is imported. Its helper that removes leftovers is an image of its own; where it cannot be
# pulled, we remove what we started ourselves, and a run that is killed leaves its containers behind.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
# The engine's ports are on this machine, also where a file makes it look like a container.
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")

from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from infra.stack.ports import free_port
from tests.processes import eventually

KAFKA_IMAGE, POSTGRES_IMAGE, VALKEY_IMAGE = "apache/kafka:4.3.1", "postgres:18", "valkey/valkey:9"


class ContainerServers:
    """Kafka, PostgreSQL and Valkey in containers; addresses stay the same through kill and start."""

    def __init__(self) -> None:
        self._ports = {name: free_port() for name in ("kafka", "postgres", "redis")}
        self._containers: dict[str, Any] = {
            "kafka": self._kafka(),
            "postgres": self._postgres(),
            "redis": self._redis(),
        }
        self._made: set[str] = set()
        self._answers: dict[str, Callable[[], bool]] = {
            "kafka": self._kafka_answers,
            "postgres": self._postgres_answers,
            "redis": self._redis_answers,
        }

    @property
    def kafka_bootstrap(self) -> str:
        return f"127.0.0.1:{self._ports['kafka']}"

    @property
    def postgres_dsn(self) -> str:
        return f"postgresql://relevo:relevo@127.0.0.1:{self._ports['postgres']}/relevo"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    def start_all(self) -> None:
        for name in self._containers:
            self.start(name)

    def start(self, name: str) -> None:
        container = self._containers[name]
        if name in self._made:
            container.get_wrapped_container().start()
        else:
            self._made.add(name)
            container.start()
        eventually(self._answers[name], 60)

    def kill(self, name: str) -> None:
        self._containers[name].get_wrapped_container().kill("SIGKILL")

    def terminate(self, name: str) -> None:
        self._containers[name].get_wrapped_container().stop()

    def pause(self, name: str) -> None:
        self._containers[name].get_wrapped_container().pause()

    def resume(self, name: str) -> None:
        self._containers[name].get_wrapped_container().unpause()

    def stop(self) -> None:
        for name in self._made:
            self._containers[name].stop()

    def _kafka(self) -> DockerContainer:
        container = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, self._ports["kafka"])
        for name, value in {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": "CLIENT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"CLIENT://127.0.0.1:{self._ports['kafka']}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "KAFKA_INTER_BROKER_LISTENER_NAME": "CLIENT",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_BROKER_SESSION_TIMEOUT_MS": "2000",
            "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "500",
        }.items():
            container = container.with_env(name, value)
        return container.waiting_for(LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(60))

    def _postgres(self) -> DockerContainer:
        container = DockerContainer(POSTGRES_IMAGE).with_bind_ports(5432, self._ports["postgres"])
        for name in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"):
            container = container.with_env(name, "relevo")
        return container

    def _redis(self) -> DockerContainer:
        container = DockerContainer(VALKEY_IMAGE).with_bind_ports(6379, self._ports["redis"])
        return container.with_command("valkey-server --appendonly yes --maxmemory-policy noeviction")

    def _kafka_answers(self) -> bool:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            client = AdminClient({"bootstrap.servers": self.kafka_bootstrap, "log_level": 0})
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _postgres_answers(self) -> bool:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        import asyncpg

        async def ask() -> bool:
            connection = await asyncpg.connect(self.postgres_dsn, timeout=2)
            await connection.close()
            return True

        try:
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(asyncio.run, ask()).result()
        except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError):
            return False

    def _redis_answers(self) -> bool:
        from redis import Redis, RedisError

        try:
            with Redis.from_url(self.redis_url, socket_timeout=2) as client:
                return bool(client.ping())
        except RedisError:
            return False


def start() -> ContainerServers:
    """Start all three."""
    servers = ContainerServers()
    try:
        servers.start_all()
    except BaseException:
        servers.stop()
        raise
    return servers
