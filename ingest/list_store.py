"""
The SQL of what is read about many notifications: a page of a list, and which of those waited for are finished.

A page is put together from scans. Each walks one index in the order of the list, so that a page deep inside costs what
the first one costs, and looks at no more than SCANNED_ROWS_MAX rows, whatever it is asked for: where few of them match,
the page is short, and says where to go on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg

from infra.postgres import fetch, open_pool
from ingest.lists import Filters, Position, Query, place_between
from ingest.timeline import REASON_COLUMNS, SUMMARY_COLUMNS, summary
from schemas.errors import TransientError
from schemas.states import COMMON, RARE, TERMINAL, State
from schemas.stored import RECIPIENT_KEY

SCANNED_ROWS_MAX = 5_000

# Apart from those for the outbox: a slow page must not hold up what takes rows out of it.
_CONNECTIONS_MAX = 2

# A list is read along its index or not at all. The planner knows how much an average recipient or client has, and not
# that somebody may have a thousand times as much, of which it would read and sort all.
PLANNING = {"enable_seqscan": "off", "enable_bitmapscan": "off"}

_OPEN = frozenset({State.QUEUED, State.SENDING})

_NEWEST_FIRST = "accepted_at DESC, id DESC"
# A constant column keeps the order of the index, but the planner sees that only where it stands in the ORDER BY.
_NOBODYS_NEWEST_FIRST = f"client, {_NEWEST_FIRST}"

_COLUMNS = ", ".join(("seq", *SUMMARY_COLUMNS))
_BESIDE_THE_PLACE = [each for each in ("seq", *SUMMARY_COLUMNS) if each not in {"accepted_at", "id"}]

_RECIPIENT_KEY = f"SELECT {RECIPIENT_KEY} AS key FROM (VALUES ($1::text)) AS given (recipient)"

_TERMINAL = f"""
SELECT id FROM notifications
WHERE id = ANY ($1::uuid[]) AND state IN ({", ".join(f"'{state}'" for state in sorted(TERMINAL))})
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Status documents without their steps, and what to ask for the next page; None: there is none."""

    items: list[dict[str, Any]]
    next: Query | None


@dataclass(frozen=True, slots=True)
class Scan:
    """
    One walk along one index.

    source: the rows, FROM and WHERE, in what the index can do. order: that of the index. matches: what else must hold
    of a row, in what it cannot; empty: nothing.
    """

    source: str
    order: str
    matches: tuple[str, ...] = ()


class ListStore:
    """
    The ledger as lists read it.

    Every method raises TransientError when the server is away, slow or broke off.
    """

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Connect. Until then every method raises TransientError."""
        if self._pool is None:
            self._pool = await open_pool(
                self._dsn, name=f"{self._name}-lists", connections_max=_CONNECTIONS_MAX, settings=PLANNING
            )

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        if self._pool is not None:
            self._pool.terminate()

    async def terminal(self, ids: Sequence[UUID]) -> Collection[UUID]:
        """Return those of *ids* that have reached a terminal state."""
        return {row["id"] for row in await self._fetch(_TERMINAL, ids)}

    async def page(self, query: Query, client: str) -> Page:
        """
        Return one page of what *client* may see: its own notifications, and those that are no client's.

        It may be shorter than it could be, even empty, and have a next one; only one without a next is the last.
        """
        filters = query.filters
        if filters.recipient is not None:
            [found] = await self._fetch(_RECIPIENT_KEY, filters.recipient)
            query = replace(query, filters=replace(filters, recipient_key=found["key"]))
        sql, arguments = page_sql(query, client)
        return _page(query, await self._fetch(sql, *arguments))

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        if self._pool is None:
            raise TransientError("not connected yet")
        return await fetch(self._pool, sql, *arguments)


def _page(query: Query, rows: Sequence[asyncpg.Record]) -> Page:
    items: list[dict[str, Any]] = []
    position: Position | None = None
    ends: Position | None = None
    for row in rows:
        here = Position(row["accepted_at"], row["id"])
        if ends is not None and here < ends:
            # One scan did not look so far, so it is the next page's, whatever the others found.
            break
        if len(items) == query.limit:
            return Page(items, replace(query, after=position))
        if row["matches"]:
            items.append(summary(dict(row), None if row["reason_class"] is None else dict(row)))
            position = here
        if row["scan_ends"]:
            # This row may be another client's, and so may the next: a place between them is nobody's.
            between = place_between(Position(row["next_at"], row["next_id"]), here)
            ends = between if ends is None else max(ends, between)
    return Page(items, None if ends is None else replace(query, after=ends))


def page_sql(query: Query, client: str) -> tuple[str, list[object]]:
    """Return the statement for one page, and its arguments. Text in it comes from closed sets only."""
    arguments = _Arguments()
    rows = query.limit + 1
    scans = [_scan_sql(scan, rows) for scan in _scans(query, client, arguments)]
    # Each scan may bring one more, which only says how far it came.
    rows += len(scans)
    # The row where one scan ends may be what another one looked for: that comes first, or it would be passed over.
    order = f"{_NEWEST_FIRST}, matches DESC"
    sql = f"""
SELECT found.*, {", ".join(REASON_COLUMNS)}
FROM (
    SELECT * FROM ({" UNION ALL ".join(scans)}) AS scans ORDER BY {order} LIMIT {rows}
) AS found
LEFT JOIN events ON events.notification_id = found.id AND events.seq = found.seq
ORDER BY {order}
"""
    return sql, arguments


def _scan_sql(scan: Scan, rows: int) -> str:
    if not scan.matches:
        return f"""(
SELECT {_COLUMNS}, true AS matches, false AS scan_ends, NULL::timestamptz AS next_at, NULL::uuid AS next_id
FROM {scan.source} ORDER BY {scan.order} LIMIT {rows})"""
    matches = " AND ".join(scan.matches)
    # The last row that may be looked at comes along even if it does not match: it says how far the scan came. With it
    # comes the place of the next one; where there is none, the scan has come to its end.
    ends = f"place = {SCANNED_ROWS_MAX} AND next_id IS NOT NULL"
    return f"""(
SELECT {_COLUMNS}, ({matches}) IS TRUE AS matches, ({ends}) AS scan_ends, next_at, next_id
FROM (
    SELECT {_COLUMNS}, row_number() OVER walk AS place, lead(accepted_at) OVER walk AS next_at,
        lead(id) OVER walk AS next_id
    FROM {scan.source} WINDOW walk AS (ORDER BY {scan.order}) ORDER BY {scan.order} LIMIT {SCANNED_ROWS_MAX}
) AS scanned
WHERE {matches} OR {ends}
ORDER BY {scan.order} LIMIT {rows})"""


class _Arguments(list[object]):
    """The arguments of one statement; each value stands in it once, and only if it is used."""

    def place(self, value: object, kind: str) -> str:
        """Return what stands for *value* in the statement."""
        if value not in self:
            self.append(value)
        return f"${self.index(value) + 1}::{kind}"


def _scans(query: Query, client: str, arguments: _Arguments) -> list[Scan]:
    """Return the scans that together find everything that matches, and nothing twice."""
    filters = query.filters
    own, nobodys = _visible(filters, client, arguments)
    either = " OR ".join(f"({' AND '.join(side)})" for side in (own, nobodys) if side)
    if filters.recipient_key is not None:
        bounds = _bounds(query, "notification_id", arguments)
        where = f"{RECIPIENT_KEY} = {arguments.place(filters.recipient_key, 'bigint')}{bounds}"
        return [Scan(_TO_ONE_RECIPIENT % where, _NEWEST_FIRST, _with_states(filters.states, f"({either})"))]
    bounds = _bounds(query, "id", arguments)
    scans: list[Scan] = []
    for state in filters.states:
        if state in RARE:
            for owner, *rest in filter(None, (own, nobodys)):
                source = f"notifications WHERE {owner} AND state = '{state}'{bounds}"
                scans.append(Scan(source, _order(owner), tuple(rest)))
    common = [state for state in filters.states if state in COMMON]
    if _OPEN.issuperset(common) and common:
        # There are few of them at any time, and they may be anywhere among the others.
        source = f"notifications WHERE finished_at IS NULL{bounds}"
        scans.append(Scan(source, _NEWEST_FIRST, _with_states(common, f"({either})")))
    elif common or not filters.states:
        for owner, *rest in filter(None, (own, nobodys)):
            lead, order = owner, _order(owner)
            if owner == _NOBODYS and filters.producer is not None:
                lead, order = f"{owner} AND {rest.pop(0)}", _NEWEST_FIRST
            scans.append(Scan(f"notifications WHERE {lead}{bounds}", order, _with_states(common, *rest)))
    return scans


_NOBODYS = "client IS NULL"

# Of contents, which are never updated, and of each the one row of the ledger: looked up one by one, so that nothing but
# what the page needs is read.
_TO_ONE_RECIPIENT = f"""(
    SELECT listed.accepted_at, listed.notification_id AS id, {", ".join(f"one.{each}" for each in _BESIDE_THE_PLACE)}
    FROM (
        SELECT notification_id, accepted_at FROM contents WHERE %s
    ) AS listed CROSS JOIN LATERAL (
        SELECT * FROM notifications WHERE notifications.id = listed.notification_id OFFSET 0
    ) AS one
) AS sent_there"""


def _visible(filters: Filters, client: str, arguments: _Arguments) -> tuple[list[str], list[str]]:
    """Return what holds of the client's own and of nobody's that are looked for; empty: none of those are."""
    own: list[str] = []
    # What came over HTTP with a key has its client for a producer.
    if filters.door != "kafka" and filters.producer in {None, client}:
        own = [f"client = {arguments.place(client, 'text')}"]
    nobodys = [_NOBODYS]
    if filters.producer is not None:
        nobodys.append(f"producer = {arguments.place(filters.producer, 'text')}")
    if filters.door is not None:
        nobodys.append(f"door = '{filters.door}'")
    return own, nobodys


def _with_states(states: Sequence[State], *others: str) -> tuple[str, ...]:
    return (f"state IN ({', '.join(repr(str(state)) for state in states)})", *others) if states else others


def _order(owner: str) -> str:
    return _NOBODYS_NEWEST_FIRST if owner == _NOBODYS else _NEWEST_FIRST


def _bounds(query: Query, key: str, arguments: _Arguments) -> str:
    found = ""
    filters, after = query.filters, query.after
    if filters.accepted_from is not None:
        found += f" AND accepted_at >= {arguments.place(filters.accepted_from, 'timestamptz')}"
    if filters.accepted_to is not None:
        found += f" AND accepted_at < {arguments.place(filters.accepted_to, 'timestamptz')}"
    if after is not None:
        at, last = arguments.place(after.accepted_at, "timestamptz"), arguments.place(after.id, "uuid")
        found += f" AND (accepted_at, {key}) < ({at}, {last})"
    return found
