"""
What every test may ask for.

servers     real Kafka, PostgreSQL and Valkey on free ports, with topics and tables, once for the whole run
mailbox     a real SMTP sink with scenarios, likewise
collector   a telemetry collector, likewise
relevo      the three services on all of these, likewise
Unit tests ask for none of them and open no socket.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack import servers as local_servers
from tests.collector import Collector
from tests.relevo import MailboxProcess, Relevo, Servers


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        choices=("local", "containers"),
        default="local",
        help="where Kafka, PostgreSQL and Valkey run: from wheels on this machine, or in containers of its engine",
    )


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    if request.config.getoption("--servers") == "containers":
        # Only here: testcontainers talks to the engine while it is imported.
        from tests import containers

        running: Servers = containers.start()
    else:
        running = local_servers.start(tmp_path_factory.mktemp("servers"))
    try:
        apply_topics(running.kafka_bootstrap, replication=1)
        # In a thread: an asynchronous fixture may ask for this one from inside its loop.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, upgrade(running.postgres_dsn)).result()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailboxProcess]:
    running = MailboxProcess(tmp_path_factory.mktemp("mailbox"))
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    running = Collector()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def relevo(servers, mailbox, collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relevo]:
    running = Relevo(
        servers,
        mailbox,
        tmp_path_factory.mktemp("relevo"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_TRACES_SAMPLER="parentbased_always_on",
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()
