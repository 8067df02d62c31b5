"""
The ledger: the SQL of the sender, one named method each; what waits in it stands in sender/parking.py.

The ledger is the truth about every id. What moves a state is one conditional update whose predicate names the states
it may come from (schemas.states) and the attempt it belongs to, so that of two who try, one gets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from infra.batching import Batcher
from infra.postgres import fetch
from schemas.addresses import is_simulated
from schemas.messages import Forward, Notification, Reason, Source
from schemas.states import TERMINAL, State, sql_states, states_before
from sender.changes import MARK_PUBLISHED, UNPUBLISHED, Unpublished, change_of_row
from sender.parking import EXPIRE_THESE, UNCLAIMED, Expired, expired_of_row

ENROL_ROWS_MAX = 500
CLAIM_ROWS_MAX = 500
OUTCOME_ROWS_MAX = 500


@dataclass(frozen=True, slots=True)
class Enrolment:
    """
    A notification that the sender has in hand, for the ledger to know it.

    forward: where its record stands; None: the record does not say since when.
    """

    notification: Notification
    source: Source
    fingerprint: bytes
    recipient_hash: str | None
    accepted_at: datetime
    forward: Forward | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Where the ledger says an id stands.

    attempt: how many were begun. accepted_at: as first recorded, which for the HTTP door is before Kafka saw it.
    parked: it waits in the ledger for its time or a later attempt, and whoever has a record of it has nothing to do.
    doubts: how often an answer was not seen. expired: its time has run out, and it is to be ended.
    """

    state: State
    attempt: int
    fingerprint: bytes
    accepted_at: datetime
    parked: bool = False
    doubts: int = 0
    expired: bool = False

    @property
    def terminal(self) -> bool:
        """Whether nothing more will be done for it."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What came of attempt number *attempt* of one notification.

    claimed: whether the attempt had been claimed. One that failed before (a refused recipient, say) had not.
    attempt_ms: how long the attempt took. next_attempt_at: park it until then; None: it is finished, or stays in hand.
    doubt: the answer was not seen. forward: to be noted, unless the claim did so or there is one already.
    """

    id: UUID
    attempt: int
    claimed: bool
    state: State
    reason: Reason
    attempt_ms: int
    occurred_at: datetime
    next_attempt_at: datetime | None = None
    doubt: bool = False
    forward: Forward | None = None


# Whether its time has come, and whether it has run out, is told by the clock of the database alone.
_STANDING_COLUMNS = """id, state, attempt, fingerprint, accepted_at, worker, doubts,
    coalesce(next_attempt_at > now(), false) AS parked, coalesce(expires_at <= now(), false) AS expired"""

# Most are known: the HTTP door wrote them. IS NOT TRUE keeps the planner from making a join of it, which would look at
# each row for each row; it is a table of hashes, whatever number of rows the plan was made for.
_ENROL = f"""
WITH known AS MATERIALIZED (
    SELECT {_STANDING_COLUMNS} FROM notifications WHERE id = ANY ($1::uuid[])
), given AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::json[], $7::text[], $8::int[], $9::bigint[],
        $10::smallint[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[],
        $17::text[], $18::timestamptz[], $19::timestamptz[], $20::text[], $21::uuid[], $22::bool[]
    ) AS given (id, fingerprint, door, channel, recipient_hash, metadata, traceparent, source_partition,
        source_offset, source_index, accepted_at, recipient, subject, body, html, reply_to, on_doubt, scheduled_for,
        expires_at, producer, replay_of, test)
), new AS (
    INSERT INTO notifications (id, fingerprint, door, channel, recipient_hash, metadata, traceparent,
        source_partition, source_offset, source_index, accepted_at, published_at, on_doubt, scheduled_for, expires_at,
        producer, replay_of, test, state, next_attempt_at)
    SELECT id, fingerprint, door, channel, recipient_hash, metadata, traceparent,
        source_partition, source_offset, source_index, accepted_at, now(), on_doubt, scheduled_for, expires_at,
        producer, replay_of, test,
        CASE WHEN scheduled_for > now() THEN '{State.SCHEDULED}' ELSE '{State.QUEUED}' END,
        CASE WHEN scheduled_for > now() THEN scheduled_for END
    FROM given WHERE (id IN (SELECT id FROM known)) IS NOT TRUE
    ON CONFLICT (id) DO NOTHING
    RETURNING {_STANDING_COLUMNS}
), content AS (
    INSERT INTO contents (notification_id, recipient, subject, body, html, reply_to, accepted_at)
    SELECT id, recipient, subject, body, html, reply_to, accepted_at
    FROM given WHERE ((id, fingerprint) IN (SELECT id, fingerprint FROM new)) IS TRUE
    ON CONFLICT (notification_id) DO NOTHING
)
SELECT * FROM new
UNION ALL
SELECT * FROM known
"""

_STANDINGS = f"SELECT {_STANDING_COLUMNS} FROM notifications WHERE id = ANY ($1::uuid[])"

# The first forward that was taken up is the one that counts: what is put back later does not change it.
_NOTE_FORWARD = """deduplicated_at = coalesce(n.deduplicated_at, given.forwarded_at),
    deduplicated_partition = coalesce(n.deduplicated_partition, given.forwarded_partition),
    deduplicated_offset = coalesce(n.deduplicated_offset, given.forwarded_offset)"""

# The last line lets a claim find itself: its answer may have been lost on the way, and then nothing was sent for it.
_CLAIM = f"""
UPDATE notifications AS n
SET state = '{State.SENDING}', attempt = given.attempt, worker = $3, next_attempt_at = NULL, {_NOTE_FORWARD}
FROM unnest($1::uuid[], $2::smallint[], $4::timestamptz[], $5::int[], $6::bigint[])
    AS given (id, attempt, forwarded_at, forwarded_partition, forwarded_offset)
WHERE n.id = given.id
  AND EXISTS (SELECT FROM workers WHERE workers.id = $3 AND lease_until > now())
  AND (n.next_attempt_at IS NULL OR n.next_attempt_at <= now())
  AND (n.expires_at IS NULL OR n.expires_at > now())
  AND (n.attempt = given.attempt - 1 AND n.state IN ({sql_states(states_before(State.SENDING))})
    OR n.attempt = given.attempt AND n.state = '{State.SENDING}' AND n.worker = $3)
RETURNING n.id
"""

_UNCLAIM = f"""
UPDATE notifications SET state = '{State.RETRYING}', attempt = attempt - 1, worker = NULL
WHERE id = $1 AND attempt = $2 AND state = '{State.SENDING}' AND worker = $3
"""

_OUTCOME = f"""
WITH given AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::smallint[], $3::bool[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[],
        $9::timestamptz[], $12::timestamptz[], $13::bool[], $14::timestamptz[], $15::int[], $16::bigint[]
    ) AS given (id, attempt, claimed, state, reason_class, reason_code, smtp, attempt_ms, occurred_at,
        next_attempt_at, doubt, forwarded_at, forwarded_partition, forwarded_offset)
), moved AS (
    UPDATE notifications AS n
    SET state = given.state, attempt = given.attempt, seq = n.seq + 1, worker = NULL,
        -- What runs out of time before its next attempt is looked at when it does.
        next_attempt_at =
            CASE WHEN given.next_attempt_at IS NOT NULL THEN least(given.next_attempt_at, n.expires_at) END,
        doubts = n.doubts + given.doubt::int, {_NOTE_FORWARD},
        -- Whoever had put it back is done; a row that still stands in the outbox keeps its turn there.
        publish_after = CASE WHEN n.published_at IS NULL THEN n.publish_after END,
        finished_at = CASE WHEN given.state IN ({sql_states(sorted(TERMINAL))}) THEN given.occurred_at END
    FROM given
    WHERE n.id = given.id
      AND (n.attempt = given.attempt AND n.state = '{State.SENDING}' AND n.worker = $10
        -- Unless it was put off meanwhile: what the relay said does not bring it forward again.
        OR NOT given.claimed AND n.attempt = given.attempt - 1 AND n.state IN ({UNCLAIMED})
            AND (n.next_attempt_at IS NULL OR n.next_attempt_at <= now()))
    RETURNING n.id, n.seq, n.state, n.attempt, reason_class, reason_code, smtp, attempt_ms, occurred_at
)
INSERT INTO events (notification_id, seq, status, attempt, worker, reason_class, reason_code, smtp, attempt_ms,
    occurred_at)
SELECT id, seq, state, attempt, $11, reason_class, reason_code, smtp, attempt_ms, occurred_at FROM moved
RETURNING notification_id, seq
"""

_RECORDED = "SELECT seq FROM events WHERE notification_id = $1 AND attempt = $2 AND status = $3"

_RENEW_LEASE = """
INSERT INTO workers (id, name, started_at, lease_until)
VALUES ($1, $2, now(), now() + make_interval(secs => $3))
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
"""

_COUNT_LEASES = "SELECT count(*) FROM workers WHERE lease_until > now()"

_END_LEASE = "UPDATE workers SET lease_until = now() WHERE id = $1"

# A claim whose worker is gone: the mail may have been handed over, and the answer was seen by nobody who could say so.
_ABANDONED = f"""
WITH gone AS (
    SELECT id, name FROM workers WHERE lease_until < now() - make_interval(secs => $1)
), moved AS (
    UPDATE notifications AS n
    SET seq = n.seq + 1, worker = NULL, doubts = n.doubts + 1,
        -- Rather twice than never: once more, if its request said so and that was not done before.
        state = CASE WHEN n.on_doubt = 'resend' AND n.doubts = 0 THEN '{State.RETRYING}' ELSE '{State.IN_DOUBT}' END,
        next_attempt_at = CASE WHEN n.on_doubt = 'resend' AND n.doubts = 0 THEN now() END,
        -- Its record is over: whoever put that back must not make the next one wait.
        publish_after = CASE WHEN n.published_at IS NULL THEN n.publish_after END,
        finished_at = CASE WHEN n.on_doubt = 'resend' AND n.doubts = 0 THEN NULL ELSE now() END
    FROM gone
    WHERE n.state = '{State.SENDING}' AND n.worker = gone.id
    RETURNING n.id, n.seq, n.attempt, n.state, gone.name
), swept AS (
    DELETE FROM workers WHERE lease_until < now() - interval '1 day'
)
INSERT INTO events (notification_id, seq, status, attempt, worker, reason_class, reason_code, occurred_at)
SELECT id, seq, state, attempt, name, 'unknown', 'worker_lost', now() FROM moved
RETURNING status
"""


class Ledger:
    """
    The ledger as the sender sees it. Writes of many tasks go out together; each call waits for its own answer.

    Every method raises TransientError when Postgres does not answer; whether it did its work is then unknown, and
    each may be called again.

    Args:
        worker: the id of this process, new at each start.
        worker_name: for people.
    """

    def __init__(self, pool: asyncpg.Pool, *, worker: UUID, worker_name: str) -> None:
        self._pool = pool
        self._worker = worker
        self._worker_name = worker_name
        self._claims: Batcher[tuple[UUID, int, Forward | None], bool] = Batcher(
            self._write_claims, rows_max=CLAIM_ROWS_MAX, writers=2
        )
        self._outcomes: Batcher[Outcome, int | None] = Batcher(
            self._write_outcomes, rows_max=OUTCOME_ROWS_MAX, writers=2
        )
        self._expiries: Batcher[UUID, Expired | None] = Batcher(
            self._write_expiries, rows_max=OUTCOME_ROWS_MAX, writers=1
        )

    async def enrol(self, enrolments: Sequence[Enrolment]) -> dict[UUID, Standing]:
        """
        Make the ledger know each notification, and say where each stands. What is known already stays as it is.

        Args:
            enrolments: at most ENROL_ROWS_MAX; an id may stand in it twice, the first one counts.
        """
        assert len(enrolments) <= ENROL_ROWS_MAX
        # What came over HTTP is in the ledger since it was accepted: all that is asked is where it stands. Whoever
        # only says that it came so is found out here.
        standings = await self._standings([each.notification.id for each in enrolments if each.source.door == "http"])
        unknown = [each for each in enrolments if each.notification.id not in standings]
        if unknown:
            standings |= await self._insert(unknown)
        return standings

    async def _insert(self, enrolments: Sequence[Enrolment]) -> dict[UUID, Standing]:
        ids = [each.notification.id for each in enrolments]
        contents = [each.notification.content for each in enrolments]
        rows = await self._fetch(
            _ENROL,
            ids,
            [each.fingerprint for each in enrolments],
            [each.source.door for each in enrolments],
            [content.channel for content in contents],
            [each.recipient_hash for each in enrolments],
            [content.metadata for content in contents],
            [each.notification.traceparent for each in enrolments],
            [each.source.partition for each in enrolments],
            [each.source.offset for each in enrolments],
            [each.source.index for each in enrolments],
            [each.accepted_at for each in enrolments],
            [content.to for content in contents],
            [content.subject for content in contents],
            [content.body for content in contents],
            [content.html for content in contents],
            [content.reply_to for content in contents],
            [content.on_doubt for content in contents],
            [content.scheduled_for for content in contents],
            [content.expires_at for content in contents],
            [each.notification.producer for each in enrolments],
            [each.notification.replay_of for each in enrolments],
            [is_simulated(content.to) for content in contents],
        )
        standings = {row["id"]: self._standing(row) for row in rows}
        # Inserted by somebody else between our snapshot and our insert: in neither half of the union.
        if missing := set(ids) - standings.keys():
            standings |= await self._standings(sorted(missing))
        return standings

    async def standing(self, notification_id: UUID) -> Standing | None:
        """Return where *notification_id* stands; None: the ledger does not know it."""
        return (await self._standings([notification_id])).get(notification_id)

    async def _standings(self, ids: Sequence[UUID]) -> dict[UUID, Standing]:
        rows = await self._fetch(_STANDINGS, ids) if ids else []
        return {row["id"]: self._standing(row) for row in rows}

    async def claim(self, notification_id: UUID, attempt: int, forward: Forward | None = None) -> bool:
        """
        Take attempt number *attempt* for this worker, just before the relay could accept the message.

        Repeatable by the same worker. False: somebody else has it or had it, or our own lease ran out; do not send.
        Args:
            forward: where its record stands, to be noted unless that was done before.
        """
        return await self._claims.submit((notification_id, attempt, forward))

    async def unclaim(self, notification_id: UUID, attempt: int) -> None:
        """Give back the claim of attempt number *attempt*, which was not used: nothing was sent. Repeatable."""
        await self._fetch(_UNCLAIM, notification_id, attempt, self._worker)

    async def record(self, outcome: Outcome) -> int | None:
        """
        Write an outcome and its event in one step.

        Returns:
            The event's seq, the same when it is recorded again. None: the attempt was not ours any more; what the
            ledger says instead stands.
        """
        return await self._outcomes.submit(outcome)

    async def expire(self, notification_id: UUID) -> Expired | None:
        """
        End *notification_id*, whose time has run out, with an event that the sweep publishes.

        Only for what this worker has in hand, and not between a claim and its outcome.
        None: nothing was done; it is ended already, somebody has it in hand, or it is not its time.
        """
        return await self._expiries.submit(notification_id)

    async def mark_published(self, events: Sequence[tuple[UUID, int]]) -> None:
        """Note that the results topic has these events (id, seq)."""
        await self._fetch(MARK_PUBLISHED, [each for each, _ in events], [seq for _, seq in events])

    async def unpublished(self, *, older_than_s: float, rows_max: int) -> list[Unpublished]:
        """
        Return up to *rows_max* events, oldest first, that nobody has published for *older_than_s* seconds.

        Those that no worker wrote (called off, put off) have nobody else to publish them, and come at once.
        """
        rows = await self._fetch(UNPUBLISHED, older_than_s, rows_max)
        return [change_of_row(row) for row in rows]

    async def renew_lease(self, lease_s: float) -> None:
        """Say that this worker lives, for *lease_s* seconds from now by the clock of the database."""
        await self._fetch(_RENEW_LEASE, self._worker, self._worker_name, lease_s)

    async def count_leases(self) -> int:
        """Return how many senders hold a lease now, by the clock of the database."""
        return int((await self._fetch(_COUNT_LEASES))[0][0])

    async def end_lease(self) -> None:
        """Say that this worker is done. Only when none of its claims is open."""
        await self._fetch(_END_LEASE, self._worker)

    async def give_up_abandoned(self, *, grace_s: float) -> list[State]:
        """
        End as in doubt what is claimed by workers whose lease ran out *grace_s* seconds ago or more.

        Their events are published by whoever looks for unpublished ones.
        Returns:
            The state that each of them has now: in doubt, or retrying where its request wants it resent.
        """
        return [State(row["status"]) for row in await self._fetch(_ABANDONED, grace_s)]

    async def _write_claims(self, claims: list[tuple[UUID, int, Forward | None]]) -> list[bool]:
        rows = await self._fetch(
            _CLAIM,
            [each for each, _, _ in claims],
            [attempt for _, attempt, _ in claims],
            self._worker,
            *_forward_columns([forward for _, _, forward in claims]),
        )
        won = {row["id"] for row in rows}
        return [each in won for each, _, _ in claims]

    async def _write_outcomes(self, outcomes: list[Outcome]) -> list[int | None]:
        rows = await self._fetch(
            _OUTCOME,
            [each.id for each in outcomes],
            [each.attempt for each in outcomes],
            [each.claimed for each in outcomes],
            [each.state.value for each in outcomes],
            [each.reason.kind for each in outcomes],
            [each.reason.code for each in outcomes],
            [each.reason.smtp for each in outcomes],
            [each.attempt_ms for each in outcomes],
            [each.occurred_at for each in outcomes],
            self._worker,
            self._worker_name,
            [each.next_attempt_at for each in outcomes],
            [each.doubt for each in outcomes],
            *_forward_columns([each.forward for each in outcomes]),
        )
        seqs: dict[UUID, int] = {row["notification_id"]: row["seq"] for row in rows}
        for each in outcomes:
            if each.id not in seqs:
                # Perhaps an earlier call did write it and its answer was lost.
                known = await self._fetch(_RECORDED, each.id, each.attempt, each.state.value)
                if known:
                    seqs[each.id] = known[0]["seq"]
        return [seqs.get(each.id) for each in outcomes]

    async def _write_expiries(self, ids: list[UUID]) -> list[Expired | None]:
        ended = {row["id"]: expired_of_row(row) for row in await self._fetch(EXPIRE_THESE, ids, self._worker)}
        return [ended.get(each) for each in ids]

    def _standing(self, row: asyncpg.Record) -> Standing:
        state, attempt = State(row["state"]), row["attempt"]
        if state is State.SENDING and row["worker"] == self._worker:
            # Who asks is not between claim and outcome. So this is a claim of ours that was never used: its answer
            # came too late, or our lease had become uncertain. The attempt is still to be made.
            state, attempt = State.RETRYING, attempt - 1
        return Standing(
            state,
            attempt,
            row["fingerprint"],
            row["accepted_at"],
            parked=row["parked"],
            doubts=row["doubts"],
            expired=row["expired"],
        )

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetch(self._pool, sql, *arguments)


def _forward_columns(
    forwards: Sequence[Forward | None],
) -> tuple[list[datetime | None], list[int | None], list[int | None]]:
    return (
        [None if each is None else each.at for each in forwards],
        [None if each is None else each.partition for each in forwards],
        [None if each is None else each.offset for each in forwards],
    )
