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
        "traceparent": TRACEPARENT,
        "accepted_at": BEGIN,
        "published_at": None,
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


def test_every_step_stands_in_the_order_of_time():
    facts = row(
        state="sent",
        attempt=2,
        published_at=at(3),
        finished_at=at(5040),
        source_partition=2,
        source_offset=912,
        source_index=7,
    )
    done = {"reason_class": "accepted", "reason_code": "smtp_250", "smtp": "250 ok", "event_attempt": 2}
    document = status_document([facts | event(2, "retrying", 40), facts | event(3, "sent", 5040, **done)])
    assert [step["step"] for step in document["timeline"]] == ["accepted", "published", "retrying", "sent"]
    assert document["timeline"][1] == {
        "at": "2026-11-24T12:00:00.003Z",
        "step": "published",
        "partition": 2,
        "offset": 912,
        "index": 7,
    }
    assert document["timeline"][2]["worker"] == "sender-1"
    assert document["reason"] == {"class": "accepted", "code": "smtp_250", "smtp": "250 ok"}
    assert document["terminal"] is True
    json.dumps(document)
