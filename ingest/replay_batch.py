"""
One batch of an order to replay, in one transaction.

Candidates are read, their originals locked, judged and sent again as new rows of the outbox, and the order's position
and counts moved. So a death at any point neither loses nor repeats: all of it is there, or nothing. The row of the
order is locked meanwhile, which is all the lease that it needs: any process may do any batch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from infra.logs import get_logger
from ingest.replay_candidates import Page, Position, candidates
from ingest.replays import OrderState, Skip, read_selection
from schemas.identity import fingerprint, replay_id
from schemas.states import TERMINAL, State
from schemas.stored import CONTENT_COLUMNS, NOTIFICATION_COLUMNS, stored_notification

BATCH_ROWS_MAX = 500

ORDER_COLUMNS = """id, client, asked_by, reason, force, rate_per_s, selection, fingerprint, state, position, replayed,
    skipped, created_at, finished_at"""

log = get_logger()

_TERMINAL = ", ".join(f"'{state}'" for state in sorted(TERMINAL))

_TAKE = f"""
SELECT {ORDER_COLUMNS}, now() AS now FROM replays
WHERE state = '{OrderState.RUNNING}' AND next_at <= now()
ORDER BY next_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""

# The next batch is due when this one has used up its share of the rate.
_ADVANCE = """
UPDATE replays SET position = $2, replayed = replayed + $3, skipped = $4, state = $5,
    next_at = now() + make_interval(secs => $6::float8), finished_at = CASE WHEN $7 THEN now() END
WHERE id = $1
"""

# Only what is finished, which nobody else changes; in the order of ids, so that two orders cannot wait for each other.
_LOCK = f"""
SELECT id FROM notifications WHERE id = ANY ($1::uuid[]) AND state IN ({_TERMINAL})
ORDER BY id FOR NO KEY UPDATE
"""

# A record of Kafka may say of itself that it is a replay; only what an order made counts as one. doubts: it was handed
# over once and its answer never seen, whatever a later attempt came to.
_JUDGE = f"""
SELECT {", ".join(f"n.{column}" for column in NOTIFICATION_COLUMNS)}, {", ".join(CONTENT_COLUMNS)},
    CASE
        WHEN copies.repeated THEN '{Skip.REPEATED}'
        WHEN n.state NOT IN ({_TERMINAL}) OR copies.open THEN '{Skip.UNDER_WAY}'
        WHEN NOT $3 AND (n.state = '{State.SENT}' OR copies.sent) THEN '{Skip.SENT}'
        WHEN NOT $3 AND (n.state = '{State.IN_DOUBT}' OR n.doubts > 0 OR copies.doubted) THEN '{Skip.IN_DOUBT}'
        WHEN NOT $3 AND n.state = '{State.CANCELLED}' THEN '{Skip.CANCELLED}'
        WHEN NOT $3 AND n.expires_at <= now() THEN '{Skip.EXPIRED}'
        WHEN contents.notification_id IS NULL THEN '{Skip.NO_CONTENT}'
    END AS skip
FROM notifications AS n
LEFT JOIN contents ON contents.notification_id = n.id
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(state NOT IN ({_TERMINAL})), false) AS open,
        coalesce(bool_or(state = '{State.SENT}'), false) AS sent,
        coalesce(bool_or(state = '{State.IN_DOUBT}' OR doubts > 0), false) AS doubted,
        coalesce(bool_or(replay = $2), false) AS repeated
    FROM notifications WHERE replay_of = n.id AND replay IS NOT NULL
) AS copies
WHERE n.id = ANY ($1::uuid[])
"""

# An ordinary row of the outbox: the next sweep of any ingest publishes it. Not scheduled again, and without an expiry
# that is over.
_INSERT = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::timestamptz[])
        AS given (id, original, fingerprint, expires_at)
), made AS (
    INSERT INTO notifications
        (id, fingerprint, door, client, channel, recipient_hash, metadata, traceparent, on_doubt, accepted_at,
         publish_after, expires_at, producer, test, replay_of, replay)
    SELECT given.id, given.fingerprint, 'http', n.client, n.channel, n.recipient_hash, n.metadata, n.traceparent,
        n.on_doubt, $5, $5, given.expires_at, n.producer, n.test, n.id, $6
    FROM given JOIN notifications AS n ON n.id = given.original
    ON CONFLICT (id) DO NOTHING
    RETURNING id, replay_of
)
INSERT INTO contents (notification_id, recipient, subject, body, html, reply_to, accepted_at)
SELECT made.id, recipient, subject, body, html, reply_to, $5
FROM made JOIN contents ON contents.notification_id = made.replay_of
"""


@dataclass(frozen=True, slots=True)
class Advance:
    """
    What one batch did.

    replayed: notifications that it made. skipped: candidates that it passed over, by reason. done: it was the last one.
    """

    order: UUID
    replayed: int
    skipped: Mapping[str, int]
    done: bool


Verdict = tuple[Position, str | None, asyncpg.Record | None]


async def judge(connection: Any, page: Page, *, order: UUID, force: bool) -> list[Verdict]:
    """Return, for each candidate that there is, where it stands, why it is skipped, and its row if it is not."""
    originals = [each.original for each in page.candidates if each.original is not None]
    rows = {row["id"]: row for row in await connection.fetch(_JUDGE, originals, order, force)}
    verdicts: list[Verdict] = []
    for each in page.candidates:
        row = None if each.original is None else rows.get(each.original)
        if row is not None:
            verdicts.append((each.position, row["skip"], None if row["skip"] else row))
        elif each.skip is not None or each.original is not None:
            verdicts.append((each.position, each.skip or Skip.UNKNOWN, None))
    return verdicts


async def take(connection: Any) -> asyncpg.Record | None:
    """Lock an order that is due, until the transaction of *connection* ends; None: none is, or others have them."""
    order: asyncpg.Record | None = await connection.fetchrow(_TAKE)
    return order


async def advance(connection: Any, order: asyncpg.Record) -> Advance:
    """Do one batch of *order*, which was taken in the transaction of *connection*, and commits with it."""
    page = await candidates(
        connection,
        read_selection(order["selection"]),
        order["client"],
        order["position"],
        until=order["created_at"],
        rows=BATCH_ROWS_MAX,
    )
    originals = [each.original for each in page.candidates if each.original is not None]
    locked = {row["id"] for row in await connection.fetch(_LOCK, originals)}
    # After the locks, in a statement of its own: it sees what whoever held them before has written.
    verdicts = [
        # Finished between the two statements: nobody's lock keeps another order from it.
        (position, Skip.UNDER_WAY, None) if row is not None and row["id"] not in locked else (position, skip, row)
        for position, skip, row in await judge(connection, page, order=order["id"], force=order["force"])
    ]
    fitting = _fitting(verdicts, min(BATCH_ROWS_MAX, order["rate_per_s"]))
    chosen = [row for _, _, row in fitting if row is not None]
    skipped = Counter(str(skip) for _, skip, _ in fitting if skip is not None)
    whole = len(fitting) == len(verdicts)
    last = page.candidates[-1:] if whole else ()
    position = last[0].position if last else fitting[-1][0] if fitting else order["position"]
    done = whole and page.last
    made = await _insert(connection, order, chosen)
    if made < len(chosen):
        # A record of Kafka has used an id that is made here alone. It stands for something else; say so, and go on.
        log.error("replay_ids_taken", order=str(order["id"]), count=len(chosen) - made)
        skipped[Skip.REPEATED] += len(chosen) - made
    await connection.execute(
        _ADVANCE,
        order["id"],
        position,
        made,
        Counter(order["skipped"]) + skipped,
        OrderState.DONE if done else OrderState.RUNNING,
        len(chosen) / order["rate_per_s"],
        done,
    )
    return Advance(order["id"], made, skipped, done=done)


def _fitting(verdicts: Sequence[Verdict], rows_max: int) -> Sequence[Verdict]:
    """Return the verdicts up to the one that would make more than *rows_max* notifications; the next batch goes on."""
    made = 0
    for place, (_, _, row) in enumerate(verdicts):
        if row is not None and made == rows_max:
            return verdicts[:place]
        made += row is not None
    return verdicts


async def _insert(connection: Any, order: asyncpg.Record, chosen: Sequence[asyncpg.Record]) -> int:
    now = order["now"]
    contents = [stored_notification(row).content for row in chosen]
    expiries = [each.expires_at if each.expires_at is not None and each.expires_at > now else None for each in contents]
    given = [
        content.model_copy(update={"scheduled_for": None, "expires_at": expires_at})
        for content, expires_at in zip(contents, expiries, strict=True)
    ]
    written: str = await connection.execute(
        _INSERT,
        [replay_id(order["id"], row["id"]) for row in chosen],
        [row["id"] for row in chosen],
        [fingerprint(content) for content in given],
        expiries,
        now,
        order["id"],
    )
    # What PostgreSQL calls it: INSERT, an oid that is always 0, and the rows.
    return int(written.rpartition(" ")[2])
