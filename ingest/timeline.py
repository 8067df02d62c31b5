"""
The timeline: from the ledger's rows of one notification to what its client reads. Pure.

Steps stand in the order of cause and effect. Their times come from the clocks of several machines; where one is behind
another, a step has the time of the step before it, so that times never run backwards.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.telemetry import trace_id_of
from schemas.records import timestamp
from schemas.states import TERMINAL, State

Row = Mapping[str, Any]
Step = tuple[datetime, dict[str, Any]]

# What `summary` needs of a row of notifications, and of its last event.
SUMMARY_COLUMNS = (
    *("id", "state", "attempt", "channel", "door", "client", "producer", "replay_of", "test", "traceparent"),
    *("accepted_at", "scheduled_for", "expires_at", "finished_at", "next_attempt_at"),
)
REASON_COLUMNS = ("reason_class", "reason_code", "smtp")


def path_of(notification_id: object) -> str:
    """Return the path of a notification's status."""
    return f"/api/notifications/{notification_id}"


def status_document(history: Sequence[Row]) -> dict[str, Any]:
    """
    Return the status of one notification, and every step with its time.

    Args:
        history: one row for each event, in order, as `Store.history` returns them; at least one.
    Holds no address, subject or body: who may read this may not be who may read those.
    """
    row = history[0]
    events = [event for event in history if event["event_seq"] is not None]
    document = summary(row, events[-1] if events else None)
    links = document.pop("links")
    return {**document, "timeline": _timeline(row, events), "links": links}


def summary(row: Row, last_event: Row | None) -> dict[str, Any]:
    """
    Return the status of one notification without its steps.

    Args:
        row: SUMMARY_COLUMNS, and whatever else.
        last_event: REASON_COLUMNS, and whatever else; None: nothing has happened to it yet.
    """
    # What it is due now, which a rescheduling may have changed; what its request said is kept beside it.
    waits = row["state"] == State.SCHEDULED and row["next_attempt_at"] is not None
    return {
        "id": str(row["id"]),
        "status": row["state"],
        "terminal": State(row["state"]) in TERMINAL,
        "attempt": row["attempt"],
        "channel": row["channel"],
        "door": row["door"],
        "client": row["client"],
        "producer": row["producer"],
        "replay_of": None if row["replay_of"] is None else str(row["replay_of"]),
        "test": row["test"],
        "accepted_at": timestamp(row["accepted_at"]),
        "scheduled_for": _moment(row["next_attempt_at"] if waits else row["scheduled_for"]),
        "expires_at": _moment(row["expires_at"]),
        "finished_at": _moment(row["finished_at"]),
        "next_attempt_at": _moment(row["next_attempt_at"]),
        "trace_id": trace_id_of(row["traceparent"]),
        "reason": None if last_event is None else _reason(last_event),
        "links": {"self": path_of(row["id"])},
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def _reason(event: Row) -> dict[str, Any]:
    return {"class": event["reason_class"], "code": event["reason_code"], "smtp": event["smtp"]}


def _timeline(row: Row, events: Sequence[Row]) -> list[dict[str, Any]]:
    before = _hops(row)
    # What happens before the first attempt (it is scheduled anew, or called off) may happen before it is in Kafka.
    before += [(event["occurred_at"], _step(event)) for event in events if event["event_attempt"] == 0]
    before.sort(key=lambda step: step[0])  # stable
    # An attempt is made by whoever read the forwarded record, whatever the clocks say.
    attempts = [(event["occurred_at"], _step(event)) for event in events if event["event_attempt"] > 0]
    told: list[dict[str, Any]] = []
    latest = row["accepted_at"]
    for at, step in [(latest, {"step": "accepted"}), *before, *attempts]:
        latest = max(latest, at)
        told.append({"at": timestamp(latest), **step})
    return told


def _hops(row: Row) -> list[Step]:
    hops: list[Step] = []
    published_at, deduplicated_at = row["published_at"], row["deduplicated_at"]
    if published_at is not None:
        if row["door"] == "kafka":
            # Its producer published it, and with that it was accepted; the column says when a sender first saw it.
            published_at = row["accepted_at"]
        elif deduplicated_at is not None:
            # The broker's acknowledgement may reach us when others have read the record already.
            published_at = min(published_at, deduplicated_at)
        place = {"partition": row["source_partition"], "offset": row["source_offset"], "index": row["source_index"]}
        hops.append((published_at, {"step": "published", **place}))
    if deduplicated_at is not None:
        place = {"partition": row["deduplicated_partition"], "offset": row["deduplicated_offset"]}
        hops.append((deduplicated_at, {"step": "deduplicated", **place}))
    return hops


def _step(event: Row) -> dict[str, Any]:
    return {
        "step": event["status"],
        "attempt": event["event_attempt"],
        "worker": event["event_worker"],
        "duration_ms": event["attempt_ms"],
        "reason": {"class": event["reason_class"], "code": event["reason_code"]},
        "smtp": event["smtp"],
    }
