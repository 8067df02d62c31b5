"""Watching one notification until it has reached its end: at the HTTP door, or on notifications.results."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiokafka.partitioner import murmur2

from infra.cli.door import Door
from infra.cli.output import CommandError, Exit
from infra.cli.reading import TopicReader
from schemas.topics import RESULTS

_LOOK_S = 0.1

# A pipeline that is up rejects what it must within a fraction of it.
_REJECTION_S_MAX = 3.0


@dataclass(frozen=True, slots=True)
class Step:
    """
    One thing that happened to a notification.

    status: the state that it brought, or `accepted` and `published`, which happen within `queued`. last: nothing
    follows. reason: a stable code; smtp: the relay's words.
    """

    at: str
    status: str
    last: bool
    attempt: int | None = None
    reason: str | None = None
    smtp: str | None = None


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where on notifications.requested a record stands."""

    partition: int
    offset: int


def watch_door(door: Door, notification_id: UUID, *, within_s: float) -> Iterator[Step]:
    """
    Yield each step once, ask again and again, and end with the last one.

    Raises:
        CommandError: no_outcome; the time is over.
    """
    deadline = time.monotonic() + within_s
    seen: set[Step] = set()
    while True:
        found = _look(door, notification_id)
        steps = [_of_timeline(step, found) for step in found.get("timeline") or ()]
        # Not by their number: one that is written down late, such as `published`, may stand before others.
        yield from sorted((step for step in steps if step not in seen), key=lambda step: step.last)
        if any(step.last for step in steps):
            return
        seen.update(steps)
        if time.monotonic() > deadline:
            raise _no_outcome(notification_id, within_s, f"it stands at {found.get('status') or 'an unknown state'}")
        time.sleep(_LOOK_S)


def _look(door: Door, notification_id: UUID) -> dict[str, Any]:
    try:
        return door.get(f"/api/notifications/{notification_id}")
    except CommandError as error:
        if error.exit_code is Exit.UNAVAILABLE:
            return {}  # it is accepted: an outage now costs time only
        raise


def _of_timeline(step: dict[str, Any], found: dict[str, Any]) -> Step:
    reason = step.get("reason") or {}
    last = bool(found["terminal"]) and step["step"] == found["status"]
    return Step(step["at"], step["step"], last, step.get("attempt"), reason.get("code"), step.get("smtp"))


def open_results_of(bootstrap: str, notification_id: UUID, *, from_start: bool) -> TopicReader:
    """Return a reader of the one partition of notifications.results that has the results of this id."""
    partition = (murmur2(str(notification_id).encode()) & 0x7FFFFFFF) % RESULTS.partitions
    return TopicReader(bootstrap, RESULTS, from_start=from_start, partitions=[partition])


def watch_results(
    reader: TopicReader, notification_id: UUID, record: Coordinates, *, within_s: float
) -> Iterator[Step]:
    """
    Yield each change of state as it comes by, and end with the last one.

    A rejection counts only when it is of this *record*: the same id may have been rejected before. The end that an
    earlier record of the same id came to is this one's, too, unless this one is rejected within a few seconds.
    Raises:
        CommandError: no_outcome; the time is over.
    """
    deadline, seq, earlier_end = time.monotonic() + within_s, 0, None
    while time.monotonic() < deadline:
        for result in (each.parsed() for each in reader.read()):
            if not isinstance(result, dict) or result.get("id") != str(notification_id):
                continue
            ours = _source_of(result) == record
            if result.get("seq") == 0 and ours:
                yield _of_result(result, last=True)
                return
            if result["seq"] <= seq:
                continue
            seq = result["seq"]
            if result["terminal"] and not ours:
                earlier_end, deadline = (
                    _of_result(result, last=True),
                    time.monotonic() + min(within_s, _REJECTION_S_MAX),
                )
                continue
            yield _of_result(result, last=bool(result["terminal"]))
            if result["terminal"]:
                return
    if earlier_end is None:
        raise _no_outcome(notification_id, within_s, "nothing was heard of it" if seq == 0 else "it is not at its end")
    yield earlier_end


def _source_of(result: dict[str, Any]) -> Coordinates | None:
    source = result.get("source")
    return Coordinates(source["partition"], source["offset"]) if source else None


def _of_result(result: dict[str, Any], *, last: bool) -> Step:
    reason = result.get("reason") or {}
    said = "; ".join(f"{each['pointer'] or '/'} {each['detail']}" for each in result.get("errors") or ())
    return Step(
        result["occurred_at"], result["status"], last, result["attempt"], reason.get("code"), reason.get("smtp") or said
    )


def _no_outcome(notification_id: UUID, within_s: float, where: str) -> CommandError:
    return CommandError(
        Exit.FAILED,
        "no_outcome",
        f"{notification_id} is accepted and has no outcome after {within_s:.0f} s: {where}.",
        f"It goes on by itself: `relevo tail --from-start --id {notification_id}` follows it, `relevo doctor` says "
        "what is in the way.",
    )
