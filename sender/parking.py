"""
Parking: the SQL of what waits in the ledger, for its time or for a later attempt, and of what nobody has in hand.

A row waits while next_attempt_at is set. Whoever takes it, to put it back on Kafka, has its lease in publish_after;
once it is there, that moment is moved far away, because from then on Kafka has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from infra.postgres import fetch
from schemas.messages import Notification, Source
from schemas.states import TERMINAL, State, sql_states, states_before
from schemas.stored import CONTENT_COLUMNS, NOTIFICATION_COLUMNS, stored_notification

# What may wait until next_attempt_at.
PARKED = (State.SCHEDULED, State.RETRYING)

# What nobody has claimed and is not finished, as it stands in a predicate.
UNCLAIMED = sql_states(state for state in states_before(State.BOUNCED) if state not in TERMINAL | {State.SENDING})


@dataclass(frozen=True, slots=True)
class Waiting:
    """
    A notification that somebody must put back on notifications.deduplicated.

    leased_until: nobody else gets it before, unless it is given back.
    """

    notification: Notification
    source: Source
    accepted_at: datetime
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class Expired:
    """What ran out of time: the state that it has now, and whether its recipient is the simulator's."""

    state: State
    test: bool


# Who holds such a row is about to claim it, to end it or to put it off: it is looked at again. Its event names no
# worker: nobody is about to publish it but the sweep. And what was handed over once, its answer unseen, nobody can say
# was not sent: that stays in doubt.
_EXPIRE = f"""
WITH late AS MATERIALIZED (
    SELECT id FROM notifications
    WHERE {{which}} AND expires_at <= now()
    LIMIT {{rows_max}} FOR NO KEY UPDATE SKIP LOCKED
), moved AS (
    UPDATE notifications AS n
    SET seq = n.seq + 1, finished_at = now(), next_attempt_at = NULL, worker = NULL,
        attempt = n.attempt - (n.state = '{State.SENDING}')::int,
        state = CASE WHEN n.doubts > 0 THEN '{State.IN_DOUBT}' ELSE '{State.EXPIRED}' END,
        publish_after = CASE WHEN n.published_at IS NULL THEN n.publish_after END
    FROM late WHERE n.id = late.id
    RETURNING n.id, n.seq, n.state, n.attempt, n.test
), told AS (
    INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at)
    SELECT id, seq, state, attempt, CASE state WHEN '{State.EXPIRED}' THEN 'called_off' ELSE 'unknown' END, 'expired',
        now()
    FROM moved
)
SELECT id, state, test FROM moved
"""
_EXPIRING = f"state IN ({sql_states(states_before(State.EXPIRED))})"
# Of the ids $1, those that no other worker than $2 has. Who asks is not between claim and outcome, so a claim of its
# own was never used: its answer was lost on the way.
EXPIRE_THESE = _EXPIRE.format(
    which=f"id = ANY ($1::uuid[]) AND ({_EXPIRING} OR state = '{State.SENDING}' AND worker = $2)", rows_max="ALL"
)
_EXPIRE_PARKED = _EXPIRE.format(which=f"next_attempt_at <= now() AND {_EXPIRING}", rows_max="$1")

_CONTENT = f"""
SELECT taken.*, {", ".join(CONTENT_COLUMNS)}
FROM taken JOIN contents ON contents.notification_id = taken.id
"""

_TAKEN = ", ".join(
    f"n.{column}"
    for column in (
        *NOTIFICATION_COLUMNS,
        *("door", "source_partition", "source_offset", "source_index", "publish_after"),
    )
)

# publish_after is the lease of whoever puts them back: should that process die, they are free again when it ends.
_DUE = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM notifications
    WHERE next_attempt_at <= now() AND state IN ({sql_states(PARKED)})
      AND (publish_after IS NULL OR publish_after <= now())
      -- Until ingest has noted where its request stands, the outbox has it.
      AND source_offset IS NOT NULL
    ORDER BY next_attempt_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
    UPDATE notifications AS n SET publish_after = now() + make_interval(secs => $2)
    FROM due WHERE n.id = due.id RETURNING {_TAKEN}
)
{_CONTENT}
"""

# $3: everything that Kafka had before this moment has been worked through. What is still open from then, and neither
# parked nor claimed, is in nobody's hand.
_FORGOTTEN = f"""
WITH forgotten AS MATERIALIZED (
    SELECT id FROM notifications
    WHERE finished_at IS NULL AND published_at < $3 AND accepted_at < $3
      AND next_attempt_at IS NULL AND state IN ({UNCLAIMED}) AND (publish_after IS NULL OR publish_after <= now())
    ORDER BY accepted_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
    UPDATE notifications AS n SET publish_after = now() + make_interval(secs => $2)
    FROM forgotten WHERE n.id = forgotten.id RETURNING {_TAKEN}
)
{_CONTENT}
"""

# Not NULL: one that still stands in the outbox keeps a time for its sweep.
_GIVE_BACK = "UPDATE notifications SET publish_after = now() WHERE id = ANY ($1::uuid[]) AND publish_after > now()"

# The lease says whose row it is: one that was tried, put off or taken by another meanwhile has another one, or none,
# and must not be made to wait for what was done before.
_HOLD = """
UPDATE notifications AS n SET publish_after = now() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::timestamptz[]) AS given (id, leased_until)
WHERE n.id = given.id AND n.publish_after = given.leased_until AND n.next_attempt_at <= now()
"""


class Parking:
    """
    What waits in the ledger, as whoever puts it back or ends it sees it.

    Every method raises TransientError when Postgres does not answer; whether it did its work is then unknown, and
    each may be called again.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def expire(self, *, rows_max: int) -> list[Expired]:
        """End up to *rows_max* of those whose time ran out while they waited, with events that the sweep publishes."""
        return [expired_of_row(row) for row in await fetch(self._pool, _EXPIRE_PARKED, rows_max)]

    async def take_due(self, *, rows_max: int, lease_s: float) -> list[Waiting]:
        """Take up to *rows_max* whose time or later attempt is due; for *lease_s* seconds nobody else gets them."""
        return [_waiting(row) for row in await fetch(self._pool, _DUE, rows_max, lease_s)]

    async def take_forgotten(self, *, before: datetime, rows_max: int, lease_s: float) -> list[Waiting]:
        """
        Take up to *rows_max* that were in Kafka before *before* and are in nobody's hand.

        Args:
            before: a moment up to which Kafka's records have provably been worked through.
        """
        return [_waiting(row) for row in await fetch(self._pool, _FORGOTTEN, rows_max, lease_s, before)]

    async def hold(self, put_back: Sequence[Waiting], *, hold_s: float) -> None:
        """
        Keep what was taken as due, and is on Kafka now, from being taken again for *hold_s* seconds.

        What was done about one of them meanwhile stays as it is.
        """
        ids, leases = [each.notification.id for each in put_back], [each.leased_until for each in put_back]
        await fetch(self._pool, _HOLD, ids, leases, hold_s)

    async def give_back(self, ids: Sequence[UUID]) -> None:
        """Free what was taken and not put back: whoever asks next takes it."""
        await fetch(self._pool, _GIVE_BACK, ids)


def expired_of_row(row: asyncpg.Record) -> Expired:
    """Return what a row of EXPIRE_THESE says."""
    return Expired(State(row["state"]), row["test"])


def _waiting(row: asyncpg.Record) -> Waiting:
    source = Source(row["door"], row["source_partition"], row["source_offset"], row["source_index"])
    return Waiting(stored_notification(row), source, row["accepted_at"], row["publish_after"])
