"""In memory: a ledger, a broker and an outbox that behave as the real ones promise."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from ingest.accept import Accepted, Known, Submission
from ingest.store import Backlog, Published
from schemas.errors import TransientError
from schemas.identity import fingerprint, new_id
from schemas.messages import Content, Notification

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def make_content(**changes: Any) -> Content:
    """Return content that is valid, with *changes*."""
    return Content(**({"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."} | changes))


def make_submission(**changes: Any) -> Submission:
    """Return a submission of one notification; changes: id, content, client."""
    notification = Notification(
        changes.pop("id", None) or new_id(), changes.pop("content", None) or make_content(), TRACEPARENT
    )
    return Submission(notifications=(notification,), client=changes.pop("client", "billing"), **changes)


def make_accepted(accepted_at: datetime | None = None, **changes: Any) -> Accepted:
    """Return a notification that is durable."""
    notification = Notification(new_id(), make_content(**changes), TRACEPARENT)
    return Accepted(notification, accepted_at or datetime.now(UTC))


class FakeLedger:
    """Keeps what is accepted; `down` makes it unreachable, `deaf` lets it write and then break off."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Known] = {}
        self.batches: list[int] = []
        self.down = self.deaf = self.unreadable = False

    async def insert(self, submissions: Sequence[Submission], accepted_at: datetime) -> set[UUID]:
        assert [each.first.id for each in submissions] == sorted({each.first.id for each in submissions})
        if self.down:
            raise TransientError("away")
        self.batches.append(len(submissions))
        fresh = set()
        for submission in submissions:
            if submission.first.id in self.rows:
                continue
            for notification in submission.notifications:
                known = Known(
                    fingerprint(notification.content), submission.client, notification.traceparent, accepted_at
                )
                self.rows[notification.id] = known
                fresh.add(notification.id)
        if self.deaf:
            raise TransientError("the connection broke off")
        return fresh

    async def find(self, ids: Sequence[UUID]) -> Mapping[UUID, Known]:
        if self.unreadable:
            raise TransientError("away")
        return {each: self.rows[each] for each in ids if each in self.rows}


class FakeRelay:
    """Remembers what it was offered."""

    def __init__(self) -> None:
        self.offered: list[Accepted] = []

    def offer(self, rows: Sequence[Accepted]) -> None:
        self.offered += rows


class FakeBroker:
    """Acknowledges everything, unless it is down."""

    def __init__(self) -> None:
        self.records: list[list[Accepted]] = []
        self.down = False

    async def publish(self, rows: Sequence[Accepted]) -> list[Published]:
        if self.down:
            return []
        self.records.append(list(rows))
        moment = datetime.now(UTC)
        return [Published(row.notification.id, moment, 0, len(self.records), index) for index, row in enumerate(rows)]


class FakeOutbox:
    """Keeps what waits; a row in `held` is locked by somebody else for that many more tries."""

    def __init__(self, rows: Sequence[Accepted] = ()) -> None:
        self.waiting = {row.notification.id: row for row in rows}
        self.leased: set[UUID] = set()
        self.held: dict[UUID, int] = {}
        self.released: list[UUID] = []
        self.down = False

    async def lease(self, rows_max: int) -> list[Accepted]:
        if self.down:
            raise TransientError("away")
        free = [row for each, row in self.waiting.items() if each not in self.leased][:rows_max]
        self.leased |= {row.notification.id for row in free}
        return free

    async def release(self, ids: Sequence[UUID], *, again_after_s: float) -> None:
        assert again_after_s > 0
        self.leased -= set(ids)
        self.released += ids

    async def mark_published(self, rows: Sequence[Published]) -> set[UUID]:
        if self.down:
            raise TransientError("away")
        done = set()
        for row in rows:
            if self.held.get(row.id, 0) > 0:
                self.held[row.id] -= 1
            else:
                self.waiting.pop(row.id, None)
                done.add(row.id)
        return done

    async def backlog(self, rows_max: int) -> Backlog:
        return Backlog(min(len(self.waiting), rows_max), 0.0)
