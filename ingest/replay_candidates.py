"""
The SQL of which notifications an order speaks of, page by page, oldest first.

Each page goes on where the last one ended and looks at no more than SCANNED_ROWS_MAX rows, however few of them match.
A row that commits late behind that place is passed over; it is so young that it would only be found under way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from ingest.ownership import changeable, nobody_elses
from ingest.replays import Selection, Skip
from schemas.states import RARE

SCANNED_ROWS_MAX = 5_000

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_FIRST_ID = UUID(int=0)

# Where a page ended, as it is kept in the row of an order; empty: nothing was looked at yet.
Position = Mapping[str, Any]

# A replay stands for its original.
_OF_IDS = f"""
SELECT original.id AS original
FROM unnest($1::uuid[]) WITH ORDINALITY AS given (id, place)
LEFT JOIN notifications AS named ON named.id = given.id
LEFT JOIN notifications AS original ON {changeable("$2", table="original")}
    AND original.id = CASE WHEN named.replay IS NULL THEN named.id ELSE named.replay_of END
ORDER BY place
"""


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    One notification that an order speaks of, and where the order goes on after it.

    original: None when it is not to be judged any more; then skip says why, and None: nothing stood there that matches.
    """

    original: UUID | None
    position: Position
    skip: Skip | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Candidates in their order. last: behind them there are no more."""

    candidates: list[Candidate]
    last: bool


async def candidates(
    connection: Any, selection: Selection, client: str, position: Position, *, until: datetime, rows: int
) -> Page:
    """
    Return the next up to *rows* candidates behind *position*: those that *client* may change (ingest/ownership.py).

    Args:
        connection: of asyncpg.
        until: what was accepted from then on is no candidate.
    """
    if selection.ids:
        return await _named(connection, selection.ids, client, int(position.get("index", 0)), rows)
    scans = _scans(selection)
    number = int(position.get("scan", 0))
    scan, last_scan = scans[number], number == len(scans) - 1
    found = await connection.fetch(
        _scan_sql(scan, selection, rows),
        client,
        datetime.fromisoformat(position["at"]) if "at" in position else selection.accepted_from or _BEGINNING,
        UUID(position["id"]) if "id" in position else _FIRST_ID,
        min(until, selection.accepted_to or until),
        selection.producer,
        [state.value for state in selection.states],
    )
    page = [_scanned(row, number) for row in found]
    ended = len(found) < rows and not any(row["place"] == SCANNED_ROWS_MAX for row in found)
    if ended and not last_scan:
        page.append(Candidate(None, {"scan": number + 1}))
    return Page(page, last=ended and last_scan)


async def _named(connection: Any, ids: tuple[UUID, ...], client: str, begins: int, rows: int) -> Page:
    ends = min(begins + rows, len(ids))
    page: list[Candidate] = []
    seen: set[UUID] = set()
    found = await connection.fetch(_OF_IDS, ids[begins:ends], client)
    for index, row in enumerate(found, begins + 1):
        original, position = row["original"], {"index": index}
        if original is None:
            page.append(Candidate(None, position, Skip.UNKNOWN))
        elif original in seen:
            page.append(Candidate(None, position, Skip.REPEATED))
        else:
            seen.add(original)
            page.append(Candidate(original, position))
    return Page(page, last=ends == len(ids))


def _scanned(row: asyncpg.Record, scan: int) -> Candidate:
    position = {"scan": scan, "at": row["accepted_at"].isoformat(), "id": str(row["id"])}
    return Candidate(row["id"] if row["matches"] else None, position)


@dataclass(frozen=True, slots=True)
class _Scan:
    """One walk along one index. owned: of the client, not of nobody. state: one of them; None: all."""

    owned: bool
    state: str | None


def _scans(selection: Selection) -> list[_Scan]:
    """Return the walks that together find everything that matches, and nothing twice."""
    few = bool(selection.states) and all(state in RARE for state in selection.states)
    states = [state.value for state in selection.states] if few else [None]
    return [_Scan(owned, state) for owned in (True, False) for state in states]


def _scan_sql(scan: _Scan, selection: Selection, rows: int) -> str:
    owner = "client = $1" if scan.owned else "client IS NULL"
    # A constant column keeps the order of the index, but the planner sees that only where it stands in the ORDER BY.
    order = f"{'' if scan.owned else 'client DESC, '}accepted_at, id"
    source = owner if scan.state is None else f"{owner} AND state = '{scan.state}'"
    # What came over HTTP has its client for a producer, also where that was not written down.
    matches = ["replay IS NULL", "($5::text IS NULL OR coalesce(producer, client) = $5)"]
    matches.append("state = ANY ($6::text[])" if selection.states else "$6::text[] IS NOT NULL")
    if not scan.owned:
        matches.append(nobody_elses("$1::text"))
    matching = " AND ".join(matches)
    # The last row that may be looked at comes along even if it does not match: it says how far the walk came.
    return f"""
SELECT id, accepted_at, matches, place FROM (
    SELECT id, accepted_at, client, {matching} AS matches, row_number() OVER (ORDER BY {order}) AS place
    FROM notifications
    WHERE {source} AND (accepted_at, id) > ($2, $3) AND accepted_at < $4
    ORDER BY {order} LIMIT {SCANNED_ROWS_MAX}
) AS scanned
WHERE matches OR place = {SCANNED_ROWS_MAX}
ORDER BY {order} LIMIT {rows}
"""
