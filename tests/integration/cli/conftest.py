"""The command line on servers of its own, which a test may empty, stop and hold, and on the whole relevo."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import pytest

from infra.stack import servers as local_servers
from tests.integration.cli.commands import Command
from tests.relevo import Servers


@pytest.fixture(scope="package")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Servers with no topics and no tables."""
    running = local_servers.start(tmp_path_factory.mktemp("cli-servers"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def fresh_database(own_servers) -> str:
    """Address of a database without tables."""
    name = f"fresh_{uuid4().hex[:8]}"

    async def create() -> None:
        connection = await asyncpg.connect(own_servers.postgres_dsn)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return own_servers.postgres_dsn.rpartition("/")[0] + f"/{name}"


@pytest.fixture
def environment(own_servers, mailbox, tmp_path) -> dict[str, str]:
    return {
        "RELEVO_HOME": str(tmp_path),
        "RELEVO_PROFILE": "development",
        "RELEVO_KAFKA_BOOTSTRAP": own_servers.kafka_bootstrap,
        "RELEVO_POSTGRES_DSN": own_servers.postgres_dsn,
        "RELEVO_REDIS_URL": own_servers.redis_url,
        "RELEVO_SMTP_URL": mailbox.smtp_url,
        "RELEVO_HTTP_PORT": "1",
    }


@pytest.fixture
def command(environment) -> Command:
    """Relevo on its own servers."""
    return Command(environment)


@pytest.fixture
def live(relevo, tmp_path) -> Command:
    """Relevo on the whole path."""
    return Command({"RELEVO_HOME": str(tmp_path), **relevo.environment, "RELEVO_HTTP_PORT": str(relevo.http_port)})
