"""Lists on real PostgreSQL: page after page, exactly what matches, in order, whatever is asked for."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from itertools import product

import asyncpg
import pytest

from ingest import list_store
from ingest.list_store import ListStore
from ingest.lists import Filters, Query, cursor_of, read_cursor
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.states import IN_LEDGER, RARE, TERMINAL, State

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ME, OTHER = "billing", "shop"


@pytest.fixture(scope="module")
def rows(database):
    """A few hundred notifications of every kind; many share a moment, as those of one commit do."""
    dice = random.Random(7)
    made = []
    for _ in range(400):
        client = dice.choice([ME, ME, OTHER, None, None])
        state = dice.choice(IN_LEDGER)
        made.append(
            {
                "id": new_id(),
                "state": state.value,
                "door": "http" if client else dice.choice(["http", "kafka", "kafka"]),
                "client": client,
                "producer": client or dice.choice([ME, "warehouse", None]),
                "accepted_at": BEGIN + timedelta(hours=dice.randrange(60)),
                "finished_at": BEGIN if state in TERMINAL else None,
                "recipient": dice.choice(["Ana@example.org", "ana@EXAMPLE.org", "bea@example.org"]),
            }
        )
    asyncio.run(write(database, made))
    return made


async def write(database, rows):
    connection = await asyncpg.connect(database)
    await connection.execute("TRUNCATE notifications, contents, events")
    await connection.executemany(
        "INSERT INTO notifications (id, state, door, client, producer, accepted_at, finished_at, fingerprint, channel, "
        "seq) VALUES ($1, $2, $3, $4, $5, $6, $7, '\\x00', 'email', 2)",
        [[value for name, value in row.items() if name != "recipient"] for row in rows],
    )
    await connection.executemany(
        "INSERT INTO contents (notification_id, recipient, subject, body, accepted_at) VALUES ($1, $2, 's', 'b', $3)",
        [(row["id"], row["recipient"], row["accepted_at"]) for row in rows],
    )
    await connection.executemany(
        "INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at) "
        "VALUES ($1, 2, $2, 1, 'accepted', 'smtp_250', $3)",
        [(row["id"], row["state"], BEGIN) for row in rows],
    )
    await connection.close()


@pytest.fixture
async def store(database, rows):
    found = ListStore(database, name="test")
    await found.open()
    yield found
    await found.close()


def expected(rows, filters):
    """What the list must hold, said as plainly as possible."""
    found = [
        row
        for row in rows
        if row["client"] in (ME, None)
        and (not filters.states or row["state"] in filters.states)
        and filters.door in (None, row["door"])
        and filters.producer in (None, row["producer"])
        and (filters.accepted_from is None or row["accepted_at"] >= filters.accepted_from)
        and (filters.accepted_to is None or row["accepted_at"] < filters.accepted_to)
        and (filters.recipient is None or row["recipient"].lower() == filters.recipient.lower())
    ]
    found.sort(key=lambda row: (row["accepted_at"], row["id"]), reverse=True)
    return [str(row["id"]) for row in found]


async def walked(store, filters, limit):
    """Every id of every page, going on with the cursor alone."""
    query, ids = Query(filters, limit), []
    while query is not None:
        page = await store.page(query, ME)
        assert len(page.items) <= limit
        ids += [item["id"] for item in page.items]
        query = None if page.next is None else read_cursor(cursor_of(page.next))
    return ids


STATES = [
    (),
    (State.SENT,),
    (State.BOUNCED,),
    (State.QUEUED, State.SENDING),
    (State.QUEUED, State.SENT, State.FAILED),
    RARE,
    IN_LEDGER,
]
WINDOWS = [(None, None), (BEGIN + timedelta(hours=10), BEGIN + timedelta(hours=30))]


@pytest.mark.parametrize("scanned", [7, 5_000], ids=["pages that come to their bound", "pages that do not"])
@pytest.mark.parametrize("states", STATES, ids=lambda states: f"{len(states)} {'+'.join(states[:3])}")
async def test_page_after_page_is_exactly_what_matches(store, rows, states, scanned, monkeypatch):
    monkeypatch.setattr(list_store, "SCANNED_ROWS_MAX", scanned)
    others = product([None, "http", "kafka"], [None, ME, "warehouse", "nobody"], [None, "ANA@example.org"], WINDOWS)
    for door, producer, recipient, (since, until) in others:
        filters = Filters(states, door, producer, since, until, recipient)
        assert await walked(store, filters, 5) == expected(rows, filters), filters


@pytest.mark.parametrize("filters", [Filters(recipient="ana@example.org"), Filters((State.QUEUED, State.BOUNCED))])
async def test_no_cursor_holds_the_place_of_what_is_another_clients(store, rows, filters, monkeypatch):
    monkeypatch.setattr(list_store, "SCANNED_ROWS_MAX", 7)
    theirs = {row["id"] for row in rows if row["client"] == OTHER}
    query, ended_short = Query(filters, 5), 0
    while query is not None:
        page = await store.page(query, ME)
        query = page.next
        if query is not None:
            assert query.after.id not in theirs
            ended_short += query.after.id.int % 2**32 == 0
    assert ended_short > 3, "some pages ended where their scan did"


async def test_a_page_shows_why_and_never_to_whom(store, rows):
    page = await store.page(Query(Filters(recipient="ana@example.org"), 200), ME)
    assert {item["reason"]["code"] for item in page.items} == {"smtp_250"}
    assert not any("ana@" in str(item).lower() for item in page.items)
    assert not any("timeline" in item for item in page.items)


async def test_one_cursor_leads_to_the_same_page_whatever_came_in_meanwhile(store, sql, rows):
    first = await store.page(Query(Filters(), 10), ME)
    before = await store.page(first.next, ME)
    newer = new_id()
    await sql.execute(
        "INSERT INTO notifications (id, fingerprint, door, client, channel, accepted_at) "
        "VALUES ($1, '\\x00', 'http', $2, 'email', now())",
        *(newer, ME),
    )
    assert (await store.page(first.next, ME)).items == before.items
    assert (await store.page(Query(Filters(), 10), ME)).items[0]["id"] == str(newer)
    await sql.execute("DELETE FROM notifications WHERE id = $1", newer)


async def test_of_many_ids_those_that_are_finished_are_told(store, rows):
    found = await store.terminal([row["id"] for row in rows] + [new_id()])
    assert found == {row["id"] for row in rows if row["state"] in TERMINAL}


async def test_a_store_that_is_not_connected_says_so(database):
    with pytest.raises(TransientError):
        await ListStore(database, name="test").page(Query(), ME)
