"""The timeline: from the ledger's rows of one notification to what its client reads. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from infra.telemetry import trace_id_of
from schemas.records import timestamp
from schemas.states import TERMINAL, State


def path_of(notification_id: object) -> str:
    """Return the path of a notification's status."""
    return f"/api/notifications/{notification_id}"


def status_document(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Return the status of one notification, and every step with its time.

    Args:
        history: one row for each event, in order, as `Store.history` returns them; at least one.
    Holds no address, subject or body: who may read this may not be who may read those.
    """
    row = history[0]
    events = [event for event in history if event["event_seq"] is not None]
    return {
        "id": str(row["id"]),
        "status": row["state"],
        "terminal": State(row["state"]) in TERMINAL,
        "attempt": row["attempt"],
        "channel": row["channel"],
        "door": row["door"],
        "client": row["client"],
        "accepted_at": timestamp(row["accepted_at"]),
        "finished_at": None if row["finished_at"] is None else timestamp(row["finished_at"]),
        "next_attempt_at": None if row["next_attempt_at"] is None else timestamp(row["next_attempt_at"]),
        "trace_id": trace_id_of(row["traceparent"]),
        "reason": _reason(events[-1]) if events else None,
        "timeline": _steps(row, events),
        "links": {"self": path_of(row["id"])},
    }


def _reason(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": event["reason_class"], "code": event["reason_code"], "smtp": event["smtp"]}


def _steps(row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    steps: list[tuple[datetime, dict[str, Any]]] = [(row["accepted_at"], {"step": "accepted"})]
    if row["published_at"] is not None:
        published = {
            "step": "published",
            "partition": row["source_partition"],
            "offset": row["source_offset"],
            "index": row["source_index"],
        }
        steps.append((row["published_at"], published))
    steps += [(event["occurred_at"], _step(event)) for event in events]
    # Stable: of equal times, the order above, which is the order of cause and effect.
    steps.sort(key=lambda step: step[0])
    return [{"at": timestamp(at), **step} for at, step in steps]


def _step(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": event["status"],
        "attempt": event["event_attempt"],
        "worker": event["event_worker"],
        "duration_ms": event["attempt_ms"],
        "reason": {"class": event["reason_class"], "code": event["reason_code"]},
        "smtp": event["smtp"],
    }
