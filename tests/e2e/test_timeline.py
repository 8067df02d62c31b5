"""The timeline tells what happened, with times that add up, by either door and through retries."""

from datetime import datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from schemas.records import header
from schemas.topics import DEDUPLICATED, REQUESTED
from tests.processes import eventually, get_json
from tests.relevo import address

# A duration is rounded, and so are times.
ROUNDING = timedelta(milliseconds=2)


def offered(relevo, door, to):
    """One notification; its id and, at the Kafka door, where its record stands."""
    identity = str(uuid4())
    if door == "http":
        return relevo.notify(to, id=identity), None
    return identity, relevo.produce({"id": identity, "to": to, "subject": "s", "body": "b", "producer": "warehouse"})


def _if_published(told):
    return told if "published" in [step["step"] for step in told["timeline"]] else None


def record_at(relevo, topic, partition, offset):
    [found] = [each for each in relevo.records(topic) if (each.partition(), each.offset()) == (partition, offset)]
    return found


@pytest.mark.parametrize("door", ["http", "kafka"])
@pytest.mark.parametrize(
    ("scenario", "states"),
    [("", ["sent"]), ("451x2", ["retrying", "retrying", "sent"]), ("550", ["bounced"])],
    ids=["sent at once", "two retries", "bounced"],
)
def test_every_step_is_told_and_its_times_add_up(relevo, door, scenario, states):
    before = datetime.now().astimezone()
    identity, place = offered(relevo, door, address(scenario))
    relevo.wait_for(identity, states[-1], 40)
    after = datetime.now().astimezone()
    # That it was published is written down after the broker's acknowledgement, which may be later than the outcome.
    told = eventually(lambda: _if_published(relevo.status(identity)))
    timeline = told["timeline"]
    assert [step["step"] for step in timeline] == ["accepted", "published", "deduplicated", *states]
    _, published, deduplicated, *attempts = timeline

    moments = [datetime.fromisoformat(step["at"]) for step in timeline]
    assert all(earlier <= later for earlier, later in pairwise(moments)), timeline
    assert before - ROUNDING <= moments[0]
    assert moments[-1] <= after + ROUNDING
    assert timeline[0]["at"] == told["accepted_at"]
    assert timeline[-1]["at"] == told["finished_at"]

    assert [step["attempt"] for step in attempts] == list(range(1, len(states) + 1))
    for previous, step in pairwise([deduplicated, *attempts]):
        begun = datetime.fromisoformat(step["at"]) - timedelta(milliseconds=step["duration_ms"])
        assert begun >= datetime.fromisoformat(previous["at"]) - ROUNDING, "an attempt began before its cause"
        assert step["worker"] == "sender"
        assert step["smtp"].startswith({"retrying": "451", "sent": "250", "bounced": "550"}[step["step"]])
        assert step["reason"]["code"] == f"smtp_{step['smtp'][:3]}"

    # It stands where the timeline says.
    if place is not None:
        assert (published["partition"], published["offset"], published["index"]) == (*place, 0)
    assert identity.encode() in record_at(relevo, REQUESTED.name, published["partition"], published["offset"]).value()
    forward = record_at(relevo, DEDUPLICATED.name, deduplicated["partition"], deduplicated["offset"])
    assert forward.key() == identity.encode()
    assert told["producer"] == {"http": "local", "kafka": "warehouse"}[door]
    assert (told["test"], told["replay_of"], told["scheduled_for"], told["expires_at"]) == (False, None, None, None)


def test_a_copy_of_the_forward_does_not_change_where_it_was_forwarded_first(relevo):
    identity = relevo.notify(address("451x1"))

    def first_attempt():
        found = relevo.status(identity)
        assert found["attempt"] == 1, found
        return found

    first = eventually(first_attempt)
    [step] = [each for each in first["timeline"] if each["step"] == "deduplicated"]
    forward = record_at(relevo, DEDUPLICATED.name, step["partition"], step["offset"])
    copied = copy(relevo, forward)
    assert copied != (step["partition"], step["offset"])
    sent = relevo.wait_for(identity, "sent", 20)
    assert [each for each in sent["timeline"] if each["step"] == "deduplicated"] == [step]
    assert relevo.mailbox.counts()[identity] == 1


def copy(relevo, record):
    reports = []
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    producer.produce(
        DEDUPLICATED.name,
        record.value(),
        record.key(),
        headers=record.headers(),
        on_delivery=lambda error, written: reports.append((error, written)),
    )
    assert producer.flush(15) == 0
    [(error, written)] = reports
    assert error is None
    return written.partition(), written.offset()


def test_a_forward_says_when_it_was_made(relevo):
    identity = relevo.notify()
    relevo.wait_for(identity, "sent")
    [forward] = [each for each in relevo.records(DEDUPLICATED.name) if each.key() == identity.encode()]
    assert int(header(forward.headers(), "relevo-deduplicated-at")) // 1000 >= forward.timestamp()[1]


@pytest.mark.parametrize("door", ["http", "kafka"])
def test_who_waits_hears_the_outcome_with_one_question(relevo, door):
    to = address()
    identity, _ = offered(relevo, door, to)
    if door == "kafka":
        # Nobody can wait for what no ledger knows yet.
        eventually(lambda: relevo.status(identity).get("id"))
    status, told = get_json(f"{relevo.url}/api/notifications/{identity}?wait=30", timeout_s=35)
    assert (status, told["status"]) == (200, "sent")
    status, page = get_json(f"{relevo.url}/api/notifications?recipient={to}&status=sent&door={door}")
    assert (status, [item["id"] for item in page["items"]]) == (200, [identity])


def test_a_recipient_that_is_asked_for_is_in_no_log_and_in_no_span(relevo, collector):
    canary = uuid4().hex
    status, page = get_json(f"{relevo.url}/api/notifications?recipient={canary}@example.org&producer={canary}")
    assert (status, page) == (200, {"items": [], "next": None})
    [answered] = eventually(
        lambda: [
            each
            for each in relevo.ingest.events("request_answered")
            if each["route"] == "/api/notifications" and each["method"] == "GET"
        ][-1:]
    )
    spans = eventually(lambda: collector.trace(answered["trace_id"]))
    assert not any(canary in str(span) for span in spans)
    assert canary not in relevo.ingest.log.read_text()
