"""
The use case: accept what a client submits, so that it is never lost and never taken twice.

What waits is written together, as one transaction, and nobody is answered before it is durable. From then on
the relay has it; should this process die at that very moment, the sweep of any other finds it in the ledger.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from infra.batching import Batcher
from infra.failpoints import hit
from infra.metrics import ACCEPTED
from schemas.errors import TransientError
from schemas.identity import fingerprint
from schemas.messages import ContactRequest, Notification

WRITERS = 2
SUBMISSIONS_PER_BATCH_MAX = 500
# So many may wait to be written; far above what two writers leave waiting, unless the ledger is away.
WAITING_MAX = 10_000
# No caller waits longer than this. Below the statement's own limit, which then ends it too.
ACCEPT_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Submission:
    """
    What one caller wants accepted, all of it or nothing.

    notifications: at least one; the id of the first is the identity of the whole. client: whose it is, None:
    nobody's in particular. contact: the form that it was made from.
    """

    notifications: tuple[Notification, ...]
    client: str | None
    contact: ContactRequest | None = None

    @property
    def first(self) -> Notification:
        """The notification whose id stands for the whole."""
        return self.notifications[0]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A notification that is durable and still has to go to Kafka. accepted_at: what its record's timestamp says."""

    notification: Notification
    accepted_at: datetime


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says of an id that was there before: the same or not, and whose."""

    fingerprint: bytes
    client: str | None
    traceparent: str | None


class Verdict(StrEnum):
    """What became of a submission."""

    NEW = "new"
    REPLAYED = "replayed"  # it was accepted before, with the same content
    CONFLICT = "conflict"  # its id stands for something else, or is somebody else's


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one submission. traceparent: the trace of the first acceptance, None if that had none."""

    verdict: Verdict
    id: UUID
    traceparent: str | None


class Ledger(Protocol):
    """Where what was accepted is kept."""

    async def insert(self, submissions: Sequence[Submission], accepted_at: datetime) -> Collection[UUID]:
        """
        Write what is new, in one transaction, and return the ids that are.

        Of a submission whose first id is known nothing is written.
        Raises:
            TransientError: nothing was written, or that is not known.
        """

    async def find(self, ids: Sequence[UUID]) -> Mapping[UUID, Known]:
        """
        Return what is known of *ids*.

        Raises:
            TransientError: there is no telling now.
        """


class Relay(Protocol):
    """Who takes what was accepted on to Kafka."""

    def offer(self, rows: Sequence[Accepted]) -> None:
        """Take *rows* if there is room; what is not taken waits in the ledger. Never blocks, never raises."""


class Acceptor:
    """Accepts submissions, many in one write."""

    def __init__(self, ledger: Ledger, relay: Relay) -> None:
        self._ledger = ledger
        self._relay = relay
        self._waiting = 0
        self._batches: Batcher[Submission, Answer | TransientError] = Batcher(
            self._write, rows_max=SUBMISSIONS_PER_BATCH_MAX, writers=WRITERS
        )

    async def accept(self, submission: Submission) -> Answer:
        """
        Make *submission* durable; what is returned holds even if this process dies right after.

        Raises:
            TransientError: it was not accepted, or that is not known. The same id again is safe in both cases.
        """
        if self._waiting >= WAITING_MAX:
            raise TransientError("too many wait to be written")
        self._waiting += 1
        try:
            async with asyncio.timeout(ACCEPT_S_MAX):
                answer = await self._batches.submit(submission)
        except TimeoutError:
            raise TransientError("the ledger did not answer in time") from None
        finally:
            self._waiting -= 1
        if isinstance(answer, TransientError):
            raise answer
        ACCEPTED.labels(answer.verdict.value).inc()
        return answer

    async def _write(self, batch: list[Submission]) -> list[Answer | TransientError]:
        # Two equal ids in one batch: the first decides, the other is compared with it below.
        firsts: dict[UUID, Submission] = {}
        for submission in batch:
            firsts.setdefault(submission.first.id, submission)
        # One order for all writers. T1 inserts id 7 then 8 while T2 inserts 8 then 7: each would wait for the other.
        ordered = [firsts[each] for each in sorted(firsts)]
        accepted_at = datetime.now(UTC)
        fresh = await self._ledger.insert(ordered, accepted_at)
        # Committed. A crash from here on loses nothing: the rows are in the outbox and the sweep finds them.
        hit("ingest.after_commit")
        self._relay.offer(
            [
                Accepted(notification, accepted_at)
                for submission in ordered
                for notification in submission.notifications
                if notification.id in fresh
            ]
        )
        return await self._judge(batch, firsts, fresh)

    async def _judge(
        self, batch: list[Submission], firsts: dict[UUID, Submission], fresh: Collection[UUID]
    ) -> list[Answer | TransientError]:
        known: Mapping[UUID, Known] = {}
        missing = TransientError("the id is known, but its row cannot be read now")
        old = [each for each in firsts if each not in fresh]
        if old:
            try:
                known = await self._ledger.find(old)
            except TransientError as error:
                missing = error
        answers: list[Answer | TransientError] = []
        for submission in batch:
            identity = submission.first.id
            first = firsts[identity]
            if identity in fresh:
                if submission is first:
                    answers.append(Answer(Verdict.NEW, identity, submission.first.traceparent))
                else:
                    answers.append(_compare(submission, _known(first)))
            elif identity in known:
                answers.append(_compare(submission, known[identity]))
            else:
                answers.append(missing)
        return answers


def _known(submission: Submission) -> Known:
    return Known(fingerprint(submission.first.content), submission.client, submission.first.traceparent)


def _compare(submission: Submission, known: Known) -> Answer:
    # Another client's id is a conflict like any other: it must not tell that the content was right.
    same = known.client in (None, submission.client) and known.fingerprint == fingerprint(submission.first.content)
    return Answer(
        Verdict.REPLAYED if same else Verdict.CONFLICT, submission.first.id, known.traceparent if same else None
    )
