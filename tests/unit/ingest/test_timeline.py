"""The timeline: every step, in order, and nothing personal."""

import json
from datetime import UTC, datetime, timedelta

from ingest.timeline import status_document
from schemas.identity import new_id
from tests.unit.ingest.fakes import TRACEPARENT

BEGIN = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def at(ms):
    return BEGIN + timedelta(milliseconds=ms)


def row(**changes):
    return {
        "id": new_id(),
        "state": "queued",
        "attempt": 0,
        "channel": "email",
        "door": "http",
        "client": "billing",
        "producer": "billing",
        "replay_of": None,
        "test": False,
        "traceparent": TRACEPARENT,
        "accepted_at": BEGIN,
        "scheduled_for": None,
        "expires_at": None,
        "published_at": None,
        "deduplicated_at": None,
        "deduplicated_partition": None,
        "deduplicated_offset": None,
        "finished_at": None,
        "next_attempt_at": None,
        "source_partition": None,
        "source_offset": None,
        "source_index": None,
        "event_seq": None,
    } | changes


def event(seq, status, ms, **changes):
    return {
        "event_seq": seq,
        "status": status,
        "event_attempt": 1,
        "event_worker": "sender-1",
        "reason_class": "transient",
        "reason_code": "smtp_451",
        "smtp": "451 later",
        "attempt_ms": 12,
        "occurred_at": at(ms),
    } | changes


def test_what_is_only_accepted_has_one_step():
    document = status_document([row()])
    assert document["timeline"] == [{"at": "2026-11-24T12:00:00.000Z", "step": "accepted"}]
    assert (document["status"], document["terminal"], document["reason"]) == ("queued", False, None)
    assert document["trace_id"] == TRACEPARENT.split("-")[1]


DONE = {"reason_class": "accepted", "reason_code": "smtp_250", "smtp": "250 ok", "event_attempt": 2}
WAY = {
    "published_at": at(3),
    "source_partition": 2,
    "source_offset": 912,
    "source_index": 7,
    "deduplicated_at": at(5),
    "deduplicated_partition": 4,
    "deduplicated_offset": 377,
}


def steps(*history):
    return [(step["step"], step["at"][-7:-1]) for step in status_document(history)["timeline"]]


def test_every_step_stands_in_the_order_of_time():
    facts = row(state="sent", attempt=2, finished_at=at(5040), **WAY)
    document = status_document([facts | event(2, "retrying", 40), facts | event(3, "sent", 5040, **DONE)])
    assert [step["step"] for step in document["timeline"]] == [
        *("accepted", "published", "deduplicated", "retrying", "sent")
    ]
    assert document["timeline"][1:3] == [
        {"at": "2026-11-24T12:00:00.003Z", "step": "published", "partition": 2, "offset": 912, "index": 7},
        {"at": "2026-11-24T12:00:00.005Z", "step": "deduplicated", "partition": 4, "offset": 377},
    ]
    assert document["timeline"][3]["worker"] == "sender-1"
    assert document["reason"] == {"class": "accepted", "code": "smtp_250", "smtp": "250 ok"}
    assert document["terminal"] is True
    json.dumps(document)


def test_what_a_producer_wrote_was_published_when_it_was_accepted():
    # published_at is when a sender first saw it.
    facts = row(door="kafka", client=None, **WAY | {"published_at": at(60)})
    assert steps(facts | event(2, "sent", 90)) == [
        *(("accepted", "00.000"), ("published", "00.000"), ("deduplicated", "00.005"), ("sent", "00.090"))
    ]


def test_an_acknowledgement_that_came_late_is_not_later_than_what_followed():
    facts = row(**WAY | {"published_at": at(9)})
    assert steps(facts) == [("accepted", "00.000"), ("published", "00.005"), ("deduplicated", "00.005")]


def test_clocks_that_are_behind_put_no_step_before_its_cause():
    facts = row(**WAY | {"published_at": at(-2)})
    assert steps(facts | event(2, "retrying", -30), facts | event(3, "sent", 4, **DONE)) == [
        *(("accepted", "00.000"), ("published", "00.000"), ("deduplicated", "00.005")),
        *(("retrying", "00.005"), ("sent", "00.005")),
    ]


def test_what_is_called_off_before_any_attempt_stands_where_it_happened():
    facts = row(state="cancelled", **WAY | {"deduplicated_at": None})
    cancelled = event(2, "cancelled", 2, event_attempt=0)
    assert steps(facts | cancelled) == [("accepted", "00.000"), ("cancelled", "00.002"), ("published", "00.003")]


def test_while_it_is_scheduled_its_due_time_is_shown_and_later_what_was_asked_for():
    facts = row(state="scheduled", scheduled_for=at(1000), next_attempt_at=at(2000), expires_at=at(3000))
    document = status_document([facts])
    assert (document["scheduled_for"], document["expires_at"]) == (
        *("2026-11-24T12:00:02.000Z", "2026-11-24T12:00:03.000Z"),
    )
    later = status_document([facts | {"state": "retrying"}])
    assert later["scheduled_for"] == "2026-11-24T12:00:01.000Z"


def test_a_replay_names_its_original_and_who_asked_and_whether_it_is_a_test():
    original = new_id()
    document = status_document([row(replay_of=original, producer="warehouse", test=True)])
    assert (document["replay_of"], document["producer"], document["test"]) == (str(original), "warehouse", True)
