"""The relay's caps, on connections and on mails per second, are kept by all senders together, also after an outage."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from uuid import uuid4

import pytest

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack import servers as local_servers
from tests.bench.distant import most_in_a_second
from tests.bench.ground import Distance, Sink
from tests.bench.sides import query
from tests.processes import eventually
from tests.relevo import Relevo

RATE_PER_S = 30
CONNECTIONS_MAX = 2
SENDERS = 2
COUNT = 400
LEASE_S = 4

# Mails that leave evenly spaced need not arrive so: a process of a busy machine may stand still for a moment.
BUNCHED_MAX = 1.3


@pytest.fixture(scope="module")
def own_servers(request, tmp_path_factory):
    """Servers that no other test's senders read from."""
    if request.config.getoption("--servers") == "containers":
        from tests import containers

        running = containers.start()
    else:
        running = local_servers.start(tmp_path_factory.mktemp("caps"))
    try:
        apply_topics(running.kafka_bootstrap, replication=1)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, upgrade(running.postgres_dsn)).result()
        yield running
    finally:
        running.stop()


@pytest.fixture
def sink(tmp_path):
    running = Sink(tmp_path)
    yield running
    running.stop()


def open_rows(servers):
    return query(servers.postgres_dsn, "SELECT count(*) FROM notifications WHERE finished_at IS NULL")[0][0]


@pytest.mark.timeout(180)
def test_connections_and_rate_stay_below_the_caps_before_and_after_an_outage(own_servers, sink, tmp_path):
    relay = Distance(tmp_path, sink.smtp_port, round_trip_ms=4)
    relevo = Relevo(
        own_servers,
        SimpleNamespace(smtp_url=f"smtp://127.0.0.1:{relay.port}"),
        tmp_path,
        RELEVO_SMTP_RATE_PER_S=str(RATE_PER_S),
        RELEVO_SMTP_CONNECTIONS_MAX=str(CONNECTIONS_MAX),
        RELEVO_LEASE_S=str(LEASE_S),
    )
    senders = [relevo.sender, relevo.service("sender", "sender-2")]
    services = [relevo.ingest, relevo.pipeline, *senders]
    try:
        for service in services:
            service.spawn()
        for service in services:
            service.wait_ready()
        for _ in range(COUNT // 100):
            items = [{"to": "a@example.org", "subject": f"Hola {uuid4()}", "body": "Hola"} for _ in range(100)]
            status, answer, _ = relevo.post("/api/notify/batch", {"items": items})
            assert status in {200, 202, 207}, answer
        assert sink.wait_for(COUNT // 3, 60)["count"] >= COUNT // 3
        before = relay.ask("count")

        relay.stop()
        eventually(lambda: all(each.metric("relevo_breaker_open") for each in senders), 30)
        time.sleep(3)  # in which what could be saved up would be
        relay = Distance(tmp_path, sink.smtp_port, round_trip_ms=4, port=relay.port)
        eventually(lambda: not open_rows(own_servers), 90, 0.5)
        after = relay.ask("count")

        taken = sink.taken(tmp_path / "taken")
        moments = sorted(at for _, at in taken)
        in_doubt = query(own_servers.postgres_dsn, "SELECT count(*) FROM notifications WHERE state = 'in_doubt'")[0][0]
        # What was on its way when the relay went away may have arrived or not.
        assert COUNT - in_doubt <= len(taken) <= COUNT
        assert in_doubt <= SENDERS * CONNECTIONS_MAX
        assert len({each for each, _ in taken}) == len(taken)
        assert most_in_a_second(moments) <= RATE_PER_S * BUNCHED_MAX
        assert len(moments) / ((moments[-1] - moments[0]) / 1e9) <= RATE_PER_S
        for seen in (before, after):
            assert 0 < seen["open_max"] <= SENDERS * CONNECTIONS_MAX
        # They are kept: not one for each mail.
        assert before["opened"] <= 2 * SENDERS * CONNECTIONS_MAX
    finally:
        for service in services:
            service.stop()
        relay.stop()
