"""More processes, fewer, each in turn anew, all under load: every id is sent once, and who leaves leaves clean."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack import servers as local_servers
from tests.load import Load, sent_once
from tests.processes import get_json
from tests.relevo import Relevo

COUNT = 2000
PER_S = 40
DONE_S_MAX = 60
LEFT_S_MAX = 30


@pytest.fixture(scope="module")
def own_servers(request, tmp_path_factory):
    """Servers that no other test's services read from: a rebalance here must not reach them."""
    if request.config.getoption("--servers") == "containers":
        from tests import containers

        running = containers.start()
    else:
        running = local_servers.start(tmp_path_factory.mktemp("scaling"))
    try:
        apply_topics(running.kafka_bootstrap, replication=1)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, upgrade(running.postgres_dsn)).result()
        yield running
    finally:
        running.stop()


@pytest.fixture
def relevo(own_servers, mailbox, tmp_path):
    running = Relevo(own_servers, mailbox, tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def leave(service):
    """End it with SIGTERM and watch its readiness on the way; how many times it said 503 before nobody answered."""
    said: list[int] = []
    ending = threading.Event()

    def watch():
        while not ending.is_set():
            said.append(get_json(f"http://127.0.0.1:{service.ops_port}/readyz", 1)[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began_s = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began_s < LEFT_S_MAX
    finally:
        ending.set()
        watcher.join()
    # Red, and then never green again. 0 is nobody, or nobody in time.
    assert 200 not in said[said.index(503) :] if 503 in said else True, said
    return said.count(503)


@pytest.mark.timeout(200)
def test_each_is_sent_once_while_processes_come_and_go(relevo):
    others = [relevo.service("sender", "sender-2"), relevo.service("sender", "sender-3")]
    another = relevo.service("pipeline", "pipeline-2")
    with Load(relevo, per_s=PER_S, count=COUNT) as load:
        try:
            for service in others:
                service.start()
            another.start()
            time.sleep(4)
            # One after the other, each back before the next one goes.
            for service in (relevo.ingest, relevo.pipeline, another, relevo.sender, *others):
                leave(service)
                service.start()
            leave(another)
            for service in others:
                leave(service)
            load.wait()
        finally:
            for service in (*others, another):
                service.stop()
    assert len(load.accepted) == COUNT
    sent_once(relevo, load.accepted, DONE_S_MAX)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("name", ["ingest", "pipeline", "sender"])
def test_readiness_is_red_before_a_loaded_service_is_gone(relevo, name):
    # The relay has each mail at once and says so a second later: when the signal comes, mails are on the way.
    relevo.mailbox.scenario(scenario="slowdot1")
    try:
        with Load(relevo, per_s=PER_S, count=240) as load:
            time.sleep(3)
            service = getattr(relevo, name)
            assert leave(service) > 0
            # Something was under way, or this proves nothing of the sender.
            assert name != "sender" or service.events("waiting_for_claimed")
            service.start()
    finally:
        relevo.mailbox.scenario(scenario=None)
    sent_once(relevo, load.accepted, DONE_S_MAX)
