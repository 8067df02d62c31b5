"""With a million notifications: every list walks an index, and reads little, however deep the page."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import asyncpg
import pytest

from ingest.list_store import PLANNING, SCANNED_ROWS_MAX, page_sql
from ingest.lists import Filters, Position, Query
from schemas.states import IN_LEDGER, RARE, State
from tests.integration.ingest.process import make_database

ROWS = 1_000_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
# A row of the ledger for each second.
MIDDLE = BEGIN + timedelta(seconds=ROWS // 2)

FILL = """
INSERT INTO notifications
    (id, fingerprint, state, attempt, seq, door, client, producer, channel, accepted_at, published_at, finished_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, '\\x00', state, 1, 2, CASE WHEN client IS NULL THEN 'kafka' ELSE 'http' END,
    client, coalesce(client, 'producer-' || n % 7), 'email', at, at,
    CASE WHEN state NOT IN ('queued', 'scheduled', 'sending', 'retrying') THEN at END
FROM (
    SELECT n, $1::timestamptz + n * interval '1 s' AS at,
        CASE WHEN n % 10 < 6 THEN 'billing' WHEN n % 10 = 6 THEN 'shop' END AS client,
        CASE WHEN n % 1000 = 0 THEN 'queued' WHEN n % 1000 = 1 THEN 'scheduled' WHEN n % 100 = 7 THEN 'bounced'
            WHEN n % 100 = 4 THEN 'bounced' WHEN n % 1000 = 9 THEN 'failed' ELSE 'sent' END AS state
    FROM generate_series(1, $2::int) AS n
) AS given
"""
FILL_CONTENTS = """
INSERT INTO contents (notification_id, recipient, subject, body, accepted_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 'R' || n % 1000 || '@example.org', 's', 'b', $1::timestamptz + n * interval '1 s'
FROM generate_series(1, $2::int) AS n
"""
FILL_EVENTS = """
INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at, published_at)
SELECT lpad(to_hex(n), 32, '0')::uuid, 2, 'sent', 1, 'accepted', 'smtp_250', $1::timestamptz, $1::timestamptz
FROM generate_series(1, $2::int) AS n
"""
TABLES = ("notifications", "contents", "events")


@pytest.fixture(scope="module")
def large(servers):
    return asyncio.run(make_large_database(servers.postgres_dsn))


async def make_large_database(dsn):
    database = await make_database(dsn)
    connection = await asyncpg.connect(database)
    made = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY ($1) AND indexname NOT LIKE '%_pkey'", TABLES
    )
    assert {"notifications_listed", "contents_listed"} <= {row["indexname"] for row in made}
    for row in made:
        await connection.execute(f"DROP INDEX {row['indexname']}")
    for table, fill in zip(TABLES, (FILL, FILL_CONTENTS, FILL_EVENTS), strict=True):
        await connection.execute(f"ALTER TABLE {table} SET UNLOGGED")
        await connection.execute(fill, BEGIN, ROWS, timeout=120)
    for row in made:
        await connection.execute(row["indexdef"], timeout=120)
    for table in TABLES:
        await connection.execute(f"VACUUM ANALYZE {table}", timeout=120)
    await connection.close()
    return database


@pytest.fixture
async def sql(large):
    connection = await asyncpg.connect(large, statement_cache_size=0)
    for name, value in {**PLANNING, "plan_cache_mode": "force_generic_plan", "jit": "off"}.items():
        await connection.execute(f"SET {name} = {value}")
    yield connection
    await connection.close()


STATES = [(), (State.SENT,), (State.BOUNCED,), RARE, (State.QUEUED, State.SENDING), IN_LEDGER]
OTHERS = list(
    product(
        [None, "http", "kafka"],
        [None, "billing", "producer-3", "nobody"],
        [None, 4711],
        [(None, None), (BEGIN + timedelta(days=1), BEGIN + timedelta(days=9))],
    )
)
DEEP = Position(MIDDLE, UUID(int=ROWS // 2))

# A scan that may throw rows away reads up to its bound, and there may be one for the client's own and one for nobody's.
ROWS_READ_MAX = 3 * SCANNED_ROWS_MAX
BLOCKS_READ_MAX = 2 * ROWS_READ_MAX


async def explained(sql, query):
    """The plan that Postgres makes for any values, as it does after a few runs of a prepared statement."""
    text, arguments = page_sql(query, "billing")
    assert "count(" not in text.lower()
    await sql.execute("DEALLOCATE ALL")
    await sql.execute(f"PREPARE page AS {text}")
    values = ", ".join(f"'{each}'" for each in arguments)
    [row] = await sql.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page{f'({values})' if values else ''}")
    return json.loads(row[0])[0]["Plan"]


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def rows_read(plan):
    """Rows that left an index or a table, those that a filter then threw away too."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
        * node["Actual Loops"]
        for node in nodes(plan)
        if "Relation Name" in node
    )


def blocks_read(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


@pytest.mark.parametrize("states", STATES, ids=lambda states: f"{len(states)} states {'+'.join(states[:1])}".strip())
async def test_whatever_is_asked_walks_indexes_and_reads_little_at_any_depth(sql, states):
    for (door, producer, key, (since, until)), after in product(OTHERS, (None, DEEP)):
        filters = Filters(states, door, producer, since, until, recipient_key=key)
        plan = await explained(sql, Query(filters, 50, after))
        kinds = {node["Node Type"] for node in nodes(plan) if "Relation Name" in node}
        assert kinds <= {"Index Scan", "Index Only Scan"}, (filters, kinds)
        assert rows_read(plan) <= ROWS_READ_MAX, (filters, after, rows_read(plan))
        assert blocks_read(plan) <= BLOCKS_READ_MAX, (filters, after, blocks_read(plan))


@pytest.mark.parametrize("after", [None, DEEP], ids=["the first page", "a page in the middle"])
@pytest.mark.parametrize(
    "filters",
    [Filters(), Filters(states=(State.BOUNCED,)), Filters(producer="producer-3"), Filters(producer="billing")],
    ids=["all", "of a state", "of a producer", "own"],
)
async def test_what_an_index_was_made_for_reads_no_more_than_it_shows(sql, filters, after):
    plan = await explained(sql, Query(filters, 50, after))
    # Fifty and one from each side, and the last event of each.
    assert rows_read(plan) <= 2 * 51 + 52, rows_read(plan)
    assert blocks_read(plan) <= 800, blocks_read(plan)
