"""The store on real PostgreSQL: one transaction, no lost row, no deadlock."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ingest.accept import Submission
from ingest.contact import notifications_of
from ingest.store import FAST_PATH_S, Published, Store
from schemas.errors import TransientError
from schemas.identity import contact_id, fingerprint, new_id
from schemas.messages import ContactRequest
from tests.integration.ingest.process import make_database
from tests.unit.ingest.fakes import TRACEPARENT, make_content, make_submission

FORM = ContactRequest(name="Elon", email="elon@xcorp.com", message="Hola")


@pytest.fixture
async def store(database):
    found = Store(database, name="test", hash_key=b"secret")
    await found.open()
    yield found
    await found.close()


@pytest.fixture(autouse=True)
async def empty(sql):
    await sql.execute("TRUNCATE notifications, contents, events, contact_messages")


def now():
    return datetime.now(UTC)


def long_ago():
    return now() - timedelta(seconds=FAST_PATH_S + 1)


def contact(first, recipients=("a@example.org", "b@example.org"), form=FORM):
    made = notifications_of(form, first=first, recipients=recipients, traceparent=TRACEPARENT)
    return Submission(notifications=made, client=None, contact=form)


def published(*ids):
    return [Published(each, now(), 3, 912, index) for index, each in enumerate(ids)]


async def test_a_notification_is_written_with_its_content(store, sql):
    content = make_content(html="<p>x</p>", reply_to="ops@example.com", metadata={"ñ": 1, "b": None, "c": "\\u0000"})
    submission = make_submission(content=content)
    accepted_at = now()
    assert await store.insert([submission], accepted_at) == {submission.first.id}
    row = await sql.fetchrow("SELECT * FROM notifications JOIN contents ON notification_id = id")
    assert (row["state"], row["seq"], row["attempt"], row["door"]) == ("queued", 1, 0, "http")
    assert row["fingerprint"] == fingerprint(content)
    assert row["accepted_at"] == accepted_at
    assert row["publish_after"] == accepted_at + timedelta(seconds=FAST_PATH_S)
    assert row["published_at"] is None
    assert len(row["recipient_hash"]) == 32
    assert (row["recipient"], row["html"], row["reply_to"]) == (content.to, content.html, content.reply_to)
    leased = await make_due(store, sql)
    assert leased[0].notification == submission.first


async def make_due(store, sql, rows_max=500):
    await sql.execute("UPDATE notifications SET publish_after = now() - interval '1 s'")
    return await store.lease(rows_max)


async def test_a_known_id_writes_nothing_and_is_told(store, sql):
    first = make_submission()
    await store.insert([first], now())
    again = make_submission(id=first.first.id, content=make_content(body="Otra."))
    fresh = make_submission()
    both = sorted([again, fresh], key=lambda each: each.first.id)
    assert await store.insert(both, now()) == {fresh.first.id}
    body = await sql.fetchval("SELECT body FROM contents WHERE notification_id = $1", first.first.id)
    assert body == first.first.content.body
    known = (await store.find([first.first.id]))[first.first.id]
    assert (known.client, known.traceparent) == ("billing", TRACEPARENT)
    assert known.fingerprint == fingerprint(first.first.content)


async def test_a_contact_message_is_written_whole_or_not_at_all(store, sql):
    first = new_id()
    assert await store.insert([contact(first)], now()) == {first, contact_id(first, 1)}
    assert await sql.fetchval("SELECT message FROM contact_messages WHERE id = $1", first) == "Hola"
    # The same key later, when there is one recipient more: nobody gets anything again.
    more = contact(first, ("a@example.org", "b@example.org", "c@example.org"))
    assert await store.insert([more], now()) == set()
    assert await sql.fetchval("SELECT count(*) FROM notifications") == 2


async def test_writers_with_the_same_ids_do_not_lock_each_other_out(store, sql):
    submissions = [make_submission() for _ in range(300)]
    ordered = sorted(submissions, key=lambda each: each.first.id)
    results = await asyncio.gather(*(store.insert(ordered, now()) for _ in range(6)))
    assert sorted(map(len, results)) == [0, 0, 0, 0, 0, 300]


async def test_a_row_that_commits_late_is_not_skipped(store, sql, database):
    early = make_submission()
    other = Store(database, name="late", hash_key=b"")
    await other.open()
    late_id = new_id()
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(
        "INSERT INTO notifications (id, fingerprint, door, channel, accepted_at, publish_after) "
        "VALUES ($1, 'x', 'http', 'email', $2, $2)",
        late_id,
        long_ago(),
    )
    await sql.execute("INSERT INTO contents VALUES ($1, 'a@example.org', 's', 'b')", late_id)
    await store.insert([early], long_ago())
    assert [row.notification.id for row in await store.lease(10)] == [early.first.id]
    await store.mark_published(published(early.first.id))
    await transaction.commit()
    assert [row.notification.id for row in await store.lease(10)] == [late_id]
    await other.close()


async def test_a_leased_row_is_nobody_elses_until_it_is_given_back(store):
    submission = make_submission()
    await store.insert([submission], long_ago())
    assert len(await store.lease(10)) == 1
    assert await store.lease(10) == []
    await store.release([submission.first.id], again_after_s=-1)
    assert len(await store.lease(10)) == 1


async def test_two_sweeps_never_get_the_same_row(store):
    ids = sorted((make_submission() for _ in range(400)), key=lambda each: each.first.id)
    await store.insert(ids, long_ago())
    leased = await asyncio.gather(*(store.lease(100) for _ in range(4)))
    found = [row.notification.id for rows in leased for row in rows]
    assert len(found) == len(set(found))
    rest = await store.lease(500)
    assert len(found) + len(rest) == 400


async def test_the_fast_path_has_its_time(store):
    await store.insert([make_submission()], now())
    assert await store.lease(10) == []


async def test_published_rows_leave_the_outbox_with_their_place(store, sql):
    submission = make_submission()
    await store.insert([submission], long_ago())
    assert await store.mark_published(published(submission.first.id)) == {submission.first.id}
    row = await sql.fetchrow("SELECT * FROM notifications")
    assert (row["source_partition"], row["source_offset"], row["source_index"]) == (3, 912, 0)
    assert await store.lease(10) == []
    assert (await store.backlog(10)).rows == 0
    # A second report of another copy changes nothing.
    again = [Published(submission.first.id, now(), 1, 1, 1)]
    assert await store.mark_published(again) == {submission.first.id}
    assert await sql.fetchval("SELECT source_offset FROM notifications") == 912


async def test_a_row_that_the_sender_holds_is_not_waited_for(store, sql):
    held, free = make_submission(), make_submission()
    await store.insert(sorted([held, free], key=lambda each: each.first.id), now())
    async with sql.transaction():
        await sql.execute("UPDATE notifications SET state = 'sending' WHERE id = $1", held.first.id)
        async with asyncio.timeout(2):
            assert await store.mark_published(published(held.first.id, free.first.id)) == {free.first.id}
    assert await store.mark_published(published(held.first.id)) == {held.first.id}


async def test_the_backlog_is_counted_up_to_a_bound(store):
    submissions = sorted((make_submission() for _ in range(5)), key=lambda each: each.first.id)
    await store.insert(submissions, now() - timedelta(seconds=60))
    assert (await store.backlog(3)).rows == 3
    backlog = await store.backlog(10)
    assert backlog.rows == 5
    assert 59 < backlog.oldest_s < 70


async def test_the_history_is_the_row_and_its_events_in_order(store, sql):
    submission = make_submission()
    await store.insert([submission], now())
    assert await store.history(new_id()) == []
    (lone,) = await store.history(submission.first.id)
    assert lone["event_seq"] is None
    for seq in (3, 2):
        await sql.execute(
            "INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at) "
            "VALUES ($1, $2, 'retrying', 1, 'transient', 'smtp_451', now())",
            submission.first.id,
            seq,
        )
    assert [row["event_seq"] for row in await store.history(submission.first.id)] == [2, 3]


async def test_before_it_is_connected_and_without_tables_it_says_so(database, servers):
    with pytest.raises(TransientError):
        await Store(database, name="test", hash_key=b"").lease(1)
    bare = Store(await make_database(servers.postgres_dsn, tables=False), name="test", hash_key=b"")
    with pytest.raises(TransientError, match="relevo db upgrade"):
        await bare.open()
    await bare.close()


async def test_a_statement_that_is_broken_off_is_a_transient_error_and_the_next_one_works(store, sql):
    blocked = make_submission()
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO notifications (id, fingerprint, door, channel, accepted_at) "
            "VALUES ($1, 'x', 'http', 'email', now())",
            blocked.first.id,
        )
        writing = asyncio.create_task(store.insert([blocked], now()))
        for _ in range(500):
            if await sql.fetchval(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'test-accept' AND wait_event_type = 'Lock'"
            ):
                break
            await asyncio.sleep(0.01)
        with pytest.raises(TransientError):
            await writing
    assert await store.insert([make_submission()], now())
