"""What a crash costs: time. Each service and each server is killed with work in hand; nothing is lost or sent twice."""

import signal
from uuid import uuid4

import pytest

from tests.processes import eventually
from tests.relevo import address


def offer(relevo, count):
    """Offer *count* notifications, half by each door, each Kafka one twice; their ids."""
    over_http = [relevo.notify() for _ in range(count // 2)]
    requests = [{"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"} for _ in range(count // 2)]
    for each in requests:
        relevo.produce(each)
    relevo.produce(requests)
    return over_http + [each["id"] for each in requests]


def all_through(relevo, ids, within_s=90):
    """Wait until every id is in a terminal state, then hold the sink against them."""

    def settled():
        states = {each: relevo.status(each).get("status") for each in ids}
        waiting = {each: state for each, state in states.items() if state not in {"sent", "in_doubt"}}
        assert not waiting, f"{len(waiting)} of {len(ids)} wait: {list(waiting.items())[:3]}"
        return states

    states = eventually(settled, within_s, 0.5)
    counts = relevo.mailbox.counts()
    for each, state in states.items():
        assert counts.get(each, 0) == 1 if state == "sent" else counts.get(each, 0) <= 1, (each, state)
    return states


@pytest.mark.parametrize("victim", ["pipeline", "sender", "ingest"])
def test_a_killed_service_loses_nothing(relevo, victim):
    service = getattr(relevo, victim)
    ids = offer(relevo, 40)
    service.kill()
    service.start()
    ids += offer(relevo, 10)
    states = all_through(relevo, ids)
    # What was claimed at the moment of death ends in doubt; nothing else may.
    in_doubt = [each for each, state in states.items() if state == "in_doubt"]
    assert len(in_doubt) <= (10 if victim == "sender" else 0)

    def told_once():
        odd = {each: events for each, events in _terminal(relevo, ids).items() if len(events) != 1}
        assert not odd, odd
        return True

    # Also those events whose publisher died: they are swept up.
    eventually(told_once, 30, 1)


def test_a_stopped_service_leaves_clean_and_loses_nothing(relevo):
    ids = offer(relevo, 40)
    for service in (relevo.sender, relevo.pipeline, relevo.ingest):
        assert service.stop() == 0
        service.start()
    states = all_through(relevo, ids)
    assert set(states.values()) == {"sent"}


@pytest.mark.parametrize("server", ["redis", "postgres", "kafka"])
def test_a_killed_server_costs_time(relevo, servers, server):
    ids = offer(relevo, 20)
    servers.kill(server)
    if server != "postgres":
        # Accepting goes on without Kafka and without Redis.
        ids += [relevo.notify() for _ in range(10)]
    else:
        status, problem, headers = relevo.post("/api/notify/", {"to": address(), "subject": "s", "body": "b"})
        assert status == 503, problem
        assert int(headers["retry-after"]) >= 1
    servers.start(server)
    ids += eventually(lambda: offer_or_false(relevo), 30)
    all_through(relevo, ids)


def test_after_kill_9_of_everything_nothing_is_lost(relevo, servers):
    ids = offer(relevo, 20)
    for service in relevo.services:
        service.kill()
    for server in ("kafka", "postgres", "redis"):
        servers.kill(server)
    servers.start_all()
    relevo.start()
    ids += offer(relevo, 6)
    all_through(relevo, ids)


def test_the_pipeline_ends_by_sigterm_while_redis_is_frozen(relevo, servers):
    servers.pause("redis")
    try:
        relevo.produce({"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"})
        eventually(lambda: relevo.pipeline.readiness()[0] == 503)
        assert relevo.pipeline.stop() == 0
    finally:
        servers.resume("redis")
        relevo.pipeline.start()


def test_a_sender_that_was_frozen_past_its_lease_does_not_send_twice(relevo):
    # A second sender takes over while the first one is frozen with work in hand.
    ids = [relevo.notify() for _ in range(20)]
    relevo.sender.pause()
    ids += [relevo.notify() for _ in range(20)]
    other = relevo.service("sender", "sender-b")
    try:
        other.start()
        eventually(lambda: relevo.status(ids[-1]).get("status") == "sent", 60)
        relevo.sender.resume()
        all_through(relevo, ids)
    finally:
        relevo.sender.process.send_signal(signal.SIGCONT)
        other.stop()
        eventually(lambda: relevo.sender.readiness()[0] == 200, 30)


def offer_or_false(relevo):
    try:
        return offer(relevo, 6)
    except (AssertionError, OSError):
        return False


def _terminal(relevo, ids):
    found = {each: [] for each in ids}
    for result in relevo.results():
        if result["terminal"] and result["id"] in found:
            found[result["id"]].append(result)
    return found
