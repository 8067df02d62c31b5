"""
The use case: accept what a client submits, so that it is never lost and never taken twice.

What waits is written together, as one transaction, and nobody is answered before it is durable. From then on
the relay has it; should this process die at that very moment, the sweep of any other finds it in the ledger.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from infra.batching import Batcher
from infra.failpoints import hit
from infra.metrics import ACCEPTED
from schemas.errors import FieldError, InvalidRequestError, TransientError
from schemas.identity import fingerprint
from schemas.messages import ContactRequest, Notification
from schemas.states import State

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
    accepted_at: datetime


class Verdict(StrEnum):
    """What became of a submission."""

    NEW = "new"
    REPLAYED = "replayed"  # it was accepted before, with the same content
    CONFLICT = "conflict"  # its id stands for something else, or is somebody else's


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The answer to one submission. traceparent: the trace of the first acceptance, None if that had none.

    status: what it was when it was first accepted: queued, or scheduled when it was for later.
    """

    verdict: Verdict
    id: UUID
    traceparent: str | None
    status: State = State.QUEUED


# Why there is no answer: not now, or never.
Refusal = TransientError | InvalidRequestError


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
        self._batches: Batcher[Submission, Answer | Refusal] = Batcher(
            self._write, rows_max=SUBMISSIONS_PER_BATCH_MAX, writers=WRITERS
        )

    async def accept(self, submission: Submission) -> Answer:
        """
        Make *submission* durable; what is returned holds even if this process dies right after.

        Raises:
            TransientError: it was not accepted, or that is not known. The same id again is safe in both cases.
            InvalidRequestError: it was not accepted, because its expires_at has passed already.
        """
        if self._waiting >= WAITING_MAX:
            raise TransientError("too many wait to be written")
        self._waiting += 1
        try:
            answer = await self._batches.submit(submission, timeout_s=ACCEPT_S_MAX)
        except TimeoutError:
            raise TransientError("the ledger did not answer in time") from None
        finally:
            self._waiting -= 1
        if not isinstance(answer, Answer):
            raise answer
        ACCEPTED.labels(answer.verdict.value).inc()
        return answer

    async def accept_all(self, submissions: Sequence[Submission]) -> list[Answer | Refusal]:
        """
        Make each of *submissions* durable, all in one write where possible, and return an answer for each, in order.

        Each stands for itself: one that is not accepted, or of which that is not known, has an error for its answer
        (see `accept`), and its neighbours may be durable all the same. The same ids again are safe.
        Raises:
            TransientError: none of them was looked at.
        """
        if not submissions:
            return []
        if self._waiting + len(submissions) > WAITING_MAX:
            raise TransientError("too many wait to be written")
        self._waiting += len(submissions)
        waiting = [self._batches.enqueue(each) for each in submissions]
        try:
            await asyncio.wait(waiting, timeout=ACCEPT_S_MAX)
        finally:
            self._waiting -= len(submissions)
            for each in waiting:
                each.cancel()
        # Each is looked at before the first is raised: asyncio reports errors that nobody has seen.
        errors = [each.exception() for each in waiting if not each.cancelled()]
        if broken := [each for each in errors if each is not None and not isinstance(each, TransientError)]:
            raise broken[0]
        answers = [_outcome(each) for each in waiting]
        for verdict, count in Counter(each.verdict for each in answers if isinstance(each, Answer)).items():
            ACCEPTED.labels(verdict.value).inc(count)
        return answers

    async def _write(self, batch: list[Submission]) -> list[Answer | Refusal]:
        # Two equal ids in one batch: the first decides, the other is compared with it below.
        firsts: dict[UUID, Submission] = {}
        for submission in batch:
            firsts.setdefault(submission.first.id, submission)
        # One order for all writers. T1 inserts id 7 then 8 while T2 inserts 8 then 7: each would wait for the other.
        ordered = [firsts[each] for each in sorted(firsts)]
        accepted_at = datetime.now(UTC)
        # What has expired already is only looked up: as a repeat it has the answer of its first time.
        late = {each.first.id for each in ordered if _is_expired(each, accepted_at)}
        timely = [each for each in ordered if each.first.id not in late] if late else ordered
        fresh = await self._ledger.insert(timely, accepted_at) if timely else ()
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
        return await self._judge(batch, firsts, fresh, accepted_at, late)

    async def _judge(
        self,
        batch: list[Submission],
        firsts: dict[UUID, Submission],
        fresh: Collection[UUID],
        accepted_at: datetime,
        late: Collection[UUID],
    ) -> list[Answer | Refusal]:
        known: Mapping[UUID, Known] = {}
        missing = TransientError("the id is known, but its row cannot be read now")
        old = [each for each in firsts if each not in fresh]
        if old:
            try:
                known = await self._ledger.find(old)
            except TransientError as error:
                # Of one that comes too late it is not known whether it is a repeat.
                missing, late = error, ()
        answers: list[Answer | Refusal] = []
        for submission in batch:
            identity = submission.first.id
            first = firsts[identity]
            if identity in fresh:
                if submission is first:
                    status = _first_status(submission, accepted_at)
                    answers.append(Answer(Verdict.NEW, identity, submission.first.traceparent, status))
                else:
                    answers.append(_compare(submission, _known(first, accepted_at)))
            elif identity in known:
                answers.append(_compare(submission, known[identity]))
            elif submission is first and identity in late:
                answers.append(InvalidRequestError("invalid_request", [_ALREADY_EXPIRED]))
            else:
                answers.append(missing)
        return answers


def _outcome(waiting: asyncio.Future[Answer | Refusal]) -> Answer | Refusal:
    if waiting.cancelled():
        return TransientError("the ledger did not answer in time")
    error = waiting.exception()
    return error if isinstance(error, TransientError) else waiting.result()


_ALREADY_EXPIRED = FieldError("/expires_at", "already_expired", "must be in the future")


def _is_expired(submission: Submission, at: datetime) -> bool:
    expires_at = submission.first.content.expires_at
    return expires_at is not None and expires_at <= at


def _known(submission: Submission, accepted_at: datetime) -> Known:
    first = submission.first
    return Known(fingerprint(first.content), submission.client, first.traceparent, accepted_at)


def _compare(submission: Submission, known: Known) -> Answer:
    # Another client's id is a conflict like any other: it must not tell that the content was right.
    same = known.client in (None, submission.client) and known.fingerprint == fingerprint(submission.first.content)
    return Answer(
        Verdict.REPLAYED if same else Verdict.CONFLICT,
        submission.first.id,
        known.traceparent if same else None,
        _first_status(submission, known.accepted_at),
    )


def _first_status(submission: Submission, accepted_at: datetime) -> State:
    scheduled_for = submission.first.content.scheduled_for
    return State.SCHEDULED if scheduled_for is not None and scheduled_for > accepted_at else State.QUEUED
