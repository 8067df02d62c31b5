"""A database of its own for each module, and the service on real servers."""

import asyncio
from types import SimpleNamespace

import aiohttp
import asyncpg
import pytest

from tests.integration.ingest.process import Ingest, make_database


@pytest.fixture(scope="module")
def database(servers):
    return asyncio.run(make_database(servers.postgres_dsn))


@pytest.fixture(scope="module")
def place(servers, database):
    """Where the three servers are, for a process."""
    return {
        "postgres_dsn": database,
        "kafka_bootstrap": servers.kafka_bootstrap,
        "redis_url": servers.redis_url,
        "contact_recipients": "ventas@example.org,jefa@example.org",
    }


@pytest.fixture(scope="module")
def ingest(place, tmp_path_factory):
    service = Ingest(tmp_path_factory.mktemp("ingest"), **place)
    service.start()
    yield service
    assert service.stop() == 0, service.tail()


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def http():
    """Return a function: method, address -> (status, headers, document)."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def call(method, url, **given):
            async with session.request(method, url, **given) as response:
                raw = await response.read()
                document = await response.json(content_type=None) if "json" in response.content_type and raw else raw
                return SimpleNamespace(status=response.status, headers=response.headers, body=document, raw=raw)

        yield call
