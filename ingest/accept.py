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
from itertools import islice
from operator import attrgetter
from typing import Protocol
from uuid import UUID

from infra.batching import Batcher
from infra.failpoints import hit
from infra.metrics import accepted
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
        # What one caller brings stays together: it waits for one answer, however many submissions it is.
        self._batches: Batcher[Sequence[Submission], Sequence[Answer | Refusal]] = Batcher(
            self._write_together, rows_max=SUBMISSIONS_PER_BATCH_MAX, writers=WRITERS, size=len
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
            (answer,) = await self._batches.submit((submission,), timeout_s=ACCEPT_S_MAX)
        except TimeoutError:
            raise TransientError("the ledger did not answer in time") from None
        finally:
            self._waiting -= 1
        if not isinstance(answer, Answer):
            raise answer
        accepted(answer.verdict).inc()
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
        places = range(0, len(submissions), SUBMISSIONS_PER_BATCH_MAX)
        try:
            parts = await asyncio.gather(
                *(self._answers(submissions[place : place + SUBMISSIONS_PER_BATCH_MAX]) for place in places)
            )
        finally:
            self._waiting -= len(submissions)
        answers = [answer for part in parts for answer in part]
        for verdict, count in Counter(each.verdict for each in answers if isinstance(each, Answer)).items():
            accepted(verdict).inc(count)
        return answers

    async def _answers(self, submissions: Sequence[Submission]) -> Sequence[Answer | Refusal]:
        try:
            return await self._batches.submit(submissions, timeout_s=ACCEPT_S_MAX)
        except TimeoutError:
            return [TransientError("the ledger did not answer in time")] * len(submissions)
        except TransientError as error:
            return [error] * len(submissions)

    async def _write_together(self, callers: list[Sequence[Submission]]) -> list[Sequence[Answer | Refusal]]:
        answers = iter(await self._write([each for submissions in callers for each in submissions]))
        return [list(islice(answers, len(submissions))) for submissions in callers]

    async def _write(self, batch: list[Submission]) -> list[Answer | Refusal]:
        # Two equal ids in one batch: the first decides, the other is compared with it below.
        firsts: dict[UUID, Submission] = {}
        for submission in batch:
            firsts.setdefault(submission.first.id, submission)
        # One order for all writers. T1 inserts id 7 then 8 while T2 inserts 8 then 7: each would wait for the other.
        ordered = [firsts[each] for each in sorted(firsts, key=_as_number)]
        accepted_at = datetime.now(UTC)
        # What has expired already is only looked up: as a repeat it has the answer of its first time.
        late = {each.first.id for each in ordered if _is_expired(each, accepted_at)}
        timely = [each for each in ordered if each.first.id not in late] if late else ordered
        fresh = await self._ledger.insert(timely, accepted_at) if timely else ()
        # Committed. A crash from here on loses nothing: the rows are in the outbox and the sweep finds them.
        hit("ingest.after_commit")
        rows = [Accepted(each, accepted_at) for submission in ordered for each in submission.notifications]
        all_fresh = len(rows) == len(fresh)
        self._relay.offer(rows if all_fresh else [row for row in rows if row.notification.id in fresh])
        if all_fresh and len(batch) == len(ordered):
            # No id was known or stands twice, which is how it nearly always is: nothing is compared.
            return [_new(submission, accepted_at) for submission in batch]
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
                    answers.append(_new(submission, accepted_at))
                else:
                    answers.append(_compare(submission, _known(first, accepted_at)))
            elif identity in known:
                answers.append(_compare(submission, known[identity]))
            elif submission is first and identity in late:
                answers.append(InvalidRequestError("invalid_request", [_ALREADY_EXPIRED]))
            else:
                answers.append(missing)
        return answers


_as_number = attrgetter("int")


def _new(submission: Submission, accepted_at: datetime) -> Answer:
    first = submission.first
    return Answer(Verdict.NEW, first.id, first.traceparent, _first_status(submission, accepted_at))


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
