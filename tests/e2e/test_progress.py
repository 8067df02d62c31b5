"""Progress, not presence: who lives and does nothing is red within 30 s; who has nothing to do is not."""

import json
import time
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from infra.progress import LOOK_EVERY_S
from schemas.topics import REQUESTED
from tests.broken_pipeline import PAUSED_PARTITION
from tests.processes import ServiceProcess, eventually
from tests.relevo import address

RED_S_MAX = 30
IDLE_S = 40


@pytest.fixture
def broken(relevo, tmp_path):
    """A way to put a pipeline that can be broken in place of the ordinary one."""
    relevo.pipeline.stop()
    running = []

    def start(how):
        environment = relevo.environment | {
            "RELEVO_INSTANCE": "pipeline",
            "BREAK": how,
            "BREAK_AT": str(tmp_path / "now"),
        }
        service = ServiceProcess("tests.broken_pipeline", environment, tmp_path / "broken.log")
        running.append(service)
        service.start()
        # It works, up to the moment at which it is broken.
        ids = offer(relevo)
        eventually(lambda: sent_once(relevo, ids), 30, 0.5)
        return service, (tmp_path / "now").touch

    yield start
    for service in running:
        service.kill()
    if not relevo.pipeline.alive:
        relevo.pipeline.start()


def offer(relevo):
    """Offer one notification to each partition; their ids."""
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    ids = [str(uuid4()) for _ in range(REQUESTED.partitions)]
    for partition, each in enumerate(ids):
        request = {"id": each, "to": address(), "subject": "s", "body": "b"}
        producer.produce(REQUESTED.name, json.dumps(request).encode(), partition=partition)
    assert producer.flush(15) == 0
    return ids


def sent_once(relevo, ids):
    counts = relevo.mailbox.counts()
    waiting = [each for each in ids if each not in counts]
    assert not waiting, f"{len(waiting)} of {len(ids)} wait"
    assert {counts[each] for each in ids} == {1}
    return True


@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", ["agent", "batches", "partition"])
def test_a_pipeline_that_lives_and_does_nothing_is_red_within_thirty_seconds(relevo, broken, how):
    service, break_now = broken(how)
    break_now()
    time.sleep(1)
    ids = offer(relevo)
    begun = time.monotonic()

    def red():
        status, answer = service.readiness()
        assert status == 503, answer
        return answer["reasons"]

    reasons = eventually(red, RED_S_MAX, 0.5)
    assert time.monotonic() - begun <= RED_S_MAX
    assert reasons.keys() == {"progress"}
    # Once for each time, with what everybody is doing.
    time.sleep(3 * LOOK_EVERY_S)
    [told] = service.events("progress_stalled")
    assert len(json.dumps(told)) < 32_000
    assert any("thread: " in each for each in told["stacks"])
    if how == "agent":
        assert any("broken_pipeline.py" in each and " put" in each for each in told["stacks"])
    if how == "partition":
        assert [partition for partition, _ in told["stuck_at"]] == [PAUSED_PARTITION]
        others = [each for partition, each in enumerate(ids) if partition != PAUSED_PARTITION]
        assert sent_once(relevo, others)
    # Whoever sees it restarts it; what the broken one left is sent by its successor, once.
    service.kill()
    relevo.pipeline.start()
    eventually(lambda: sent_once(relevo, ids), 30, 0.5)


@pytest.mark.timeout(180)
def test_a_blocked_event_loop_answers_nobody_and_its_stack_is_told(relevo, broken):
    service, break_now = broken("loop")
    break_now()
    begun = time.monotonic()
    eventually(lambda: service.readiness()[0] == 0, RED_S_MAX, 0.5)
    eventually(lambda: "broken_pipeline.py" in service.log.read_text(), RED_S_MAX, 0.5)
    assert time.monotonic() - begun <= RED_S_MAX
    time.sleep(3)
    assert service.log.read_text().count("Timeout (0:00:20)!") == 1


@pytest.mark.timeout(180)
def test_an_idle_system_stays_green_and_a_backlog_that_moves_does_too(relevo):
    begun = time.monotonic()
    while time.monotonic() - begun < IDLE_S:
        for service in relevo.services:
            status, answer = service.readiness()
            assert status == 200, (service.module, answer)
        time.sleep(0.5)
    # A backlog of everything that one pipeline does in some seconds.
    relevo.pipeline.stop()
    ids = []
    for _ in range(40):
        items = [{"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"} for _ in range(100)]
        relevo.produce(items)
        ids += [each["id"] for each in items]
    relevo.pipeline.start()
    begun = time.monotonic()
    while not relevo.mailbox.counts().keys() >= set(ids):
        for service in relevo.services:
            status, answer = service.readiness()
            assert status == 200, (service.module, answer)
        assert time.monotonic() - begun < 100
        time.sleep(0.5)
    assert not relevo.pipeline.events("progress_stalled")
