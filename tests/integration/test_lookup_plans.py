"""While much waits: whoever looks rows up by their ids reads those rows, and not everything that waits."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from infra.postgres import LOOKUPS, open_pool
from ingest.store import Published, Store
from schemas.identity import new_id
from schemas.messages import Reason, Source
from schemas.states import State
from sender.ledger import Enrolment, Ledger, Outcome
from tests.integration.ingest.process import make_database
from tests.unit.ingest.fakes import make_submission

DONE, WAITING = 5_000, 2_000
AT_ONCE = 10
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# What waits: partial indexes whose conditions the statements speak of.
WAITING_INDEXES = ("notifications_unpublished", "events_unpublished", "notifications_open", "notifications_claimed")

FILL = """
WITH filled AS (
    INSERT INTO notifications (id, fingerprint, door, channel, accepted_at, publish_after, published_at, finished_at)
    SELECT gen_random_uuid(), '\\x00', 'http', 'email', $1, $1, $3, $3 FROM generate_series(1, $2::int) RETURNING id
)
INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at, published_at)
SELECT id, 2, 'sent', 1, 'accepted', 'smtp_250', $1, $3 FROM filled
"""

READ = """
SELECT
    (SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname IN ('notifications', 'contents', 'events')),
    (SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE indexrelname = ANY ($1)),
    (SELECT n_tup_ins::int FROM pg_stat_user_tables WHERE relname = 'events')
"""


@pytest.fixture
async def sql(servers):
    database = await make_database(servers.postgres_dsn)
    connection = await asyncpg.connect(database)
    # The statistics are from before anything waited, as they are when a burst comes.
    await connection.execute(FILL, NOW, DONE, NOW)
    await connection.execute("VACUUM ANALYZE")
    for table in ("notifications", "events"):
        await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await connection.execute(FILL, NOW, WAITING, None)
    yield connection, database
    await connection.close()


async def read_so_far(connection, *, events):
    """Rows read one after the other, and from the indexes of what waits, once the counts of all connections are in."""
    async with asyncio.timeout(20):
        while True:
            await connection.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
            tables, indexes, inserted = await connection.fetchrow(READ, WAITING_INDEXES)
            if inserted == events:
                return tables + indexes
            await asyncio.sleep(0.1)


async def bring_through(database, rounds):
    """Accept, publish, enrol, claim, and end AT_ONCE notifications, *rounds* times."""
    store = Store(database, name="test", hash_key=b"secret")
    await store.open()
    pool = await open_pool(database, name="test", connections_max=1, settings=LOOKUPS)
    ledger = Ledger(pool, worker=new_id(), worker_name="test")
    await ledger.renew_lease(60)
    for _ in range(rounds):
        submissions = [make_submission(id=new_id()) for _ in range(AT_ONCE)]
        ids = [each.first.id for each in submissions]
        assert set(await store.insert(submissions, NOW)) == set(ids)
        marked = await store.mark_published([Published(each, NOW, 3, 912, at) for at, each in enumerate(ids)])
        assert marked == set(ids)
        enrolments = [
            Enrolment(each.first, Source("http", 3, 912, at), b"print", "a hash", NOW)
            for at, each in enumerate(submissions)
        ]
        assert (await ledger.enrol(enrolments)).keys() == set(ids)
        assert all(await asyncio.gather(*(ledger.claim(each, 1) for each in ids)))
        sent = Reason("accepted", "smtp_250")
        seqs = await asyncio.gather(*(ledger.record(Outcome(each, 1, True, State.SENT, sent, 12, NOW)) for each in ids))
        await ledger.mark_published(list(zip(ids, seqs, strict=True)))
    # A connection that ends hands in its counts.
    await pool.close()
    await store.close()


async def test_what_is_looked_up_by_id_costs_the_same_however_much_waits(sql):
    connection, database = sql
    before = await read_so_far(connection, events=DONE + WAITING)
    # Often enough for the server to settle on the plan that it keeps.
    rounds = 8
    await bring_through(database, rounds)
    read = await read_so_far(connection, events=DONE + WAITING + rounds * AT_ONCE) - before
    assert read < WAITING, read
