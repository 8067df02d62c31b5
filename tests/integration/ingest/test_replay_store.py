"""Replays on real PostgreSQL: what is decided about each candidate, in one transaction for each batch."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from ingest import replay_batch, replay_candidates, replay_store
from ingest.replay_store import ReplayStore
from ingest.replays import Selection, Skip, Wanted
from schemas.identity import fingerprint, new_id, replay_id
from schemas.states import State
from schemas.stored import stored_notification
from tests.unit.ingest.fakes import make_content

ME, OTHER = "billing", "shop"
NOW = datetime.now(UTC)


@pytest.fixture
async def store(database):
    found = ReplayStore(database, name="test")
    await found.open()
    yield found
    await found.close()


@pytest.fixture(autouse=True)
async def empty(sql):
    await sql.execute("TRUNCATE notifications, contents, events, replays")


async def put(sql, state=State.FAILED, *, client=ME, content=True, age_s=60.0, **columns):
    """Write one notification that has come to *state*; its id."""
    identity = new_id()
    what = make_content(html="<p>x</p>", metadata={"ñ": 1e16})
    row = {
        "id": identity,
        "fingerprint": fingerprint(what),
        "state": state,
        "door": "http",
        "client": client,
        "producer": client,
        "channel": "email",
        "accepted_at": NOW - timedelta(seconds=age_s),
        "published_at": NOW,
        "finished_at": None if state in {State.QUEUED, State.RETRYING, State.SENDING} else NOW,
    } | columns
    names = ", ".join(row)
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await sql.execute(f"INSERT INTO notifications ({names}) VALUES ({places})", *row.values())
    await sql.execute("""UPDATE notifications SET metadata = '{"ñ": 1e16}' WHERE id = $1""", identity)
    if content:
        await sql.execute(
            "INSERT INTO contents (notification_id, recipient, subject, body, html) VALUES ($1, $2, $3, $4, $5)",
            *(identity, what.to, what.subject, what.body, what.html),
        )
    return identity


async def order(store, selection, *, client=ME, **changes):
    identity = new_id()
    assert await store.create(identity, client, Wanted(selection, **{"rate_per_s": 1000} | changes)) is not None
    return identity


async def run(store, sql, identity, client=ME):
    """Do every batch, due or not; the row of the order then."""
    while True:
        await sql.execute("UPDATE replays SET next_at = now()")
        if await store.advance() is None:
            return await store.find(identity, client)


async def replays_of(sql, original):
    return await sql.fetch("SELECT * FROM notifications WHERE replay_of = $1", original)


async def settle(sql, original, state):
    await sql.execute("UPDATE notifications SET state = $2, finished_at = now() WHERE replay_of = $1", original, state)


async def test_a_replay_is_a_new_notification_with_the_same_content_and_its_original_stays(store, sql):
    original = await put(sql, scheduled_for=NOW - timedelta(hours=1), expires_at=NOW + timedelta(hours=1))
    before = await sql.fetchrow("SELECT * FROM notifications WHERE id = $1", original)
    identity = await order(store, Selection(ids=(original,)), reason="relay was down", asked_by="ana")
    done = await run(store, sql, identity)
    assert (done["state"], done["replayed"], done["skipped"]) == ("done", 1, {})
    assert done["finished_at"] is not None
    [made] = await replays_of(sql, original)
    assert made["id"] == replay_id(identity, original)
    assert (made["replay"], made["client"], made["producer"], made["door"]) == (identity, ME, ME, "http")
    assert (made["state"], made["seq"], made["attempt"], made["published_at"]) == ("queued", 1, 0, None)
    assert (made["scheduled_for"], made["expires_at"]) == (None, before["expires_at"])
    assert await sql.fetchrow("SELECT * FROM notifications WHERE id = $1", original) == before
    # What ingest will publish has the fingerprint of its row: enrolment compares the two.
    row = await sql.fetchrow(
        "SELECT * FROM notifications JOIN contents ON notification_id = id WHERE replay = $1", identity
    )
    read = {**row, "metadata": json.loads(row["metadata"])}
    assert fingerprint(stored_notification(read).content) == row["fingerprint"]
    assert (row["html"], row["metadata"]) == ("<p>x</p>", '{"ñ": 1e16}')


STATES_AND_REASONS = [
    (State.FAILED, None, None),
    (State.BOUNCED, None, None),
    (State.SUPPRESSED, None, None),
    (State.QUEUED, Skip.UNDER_WAY, Skip.UNDER_WAY),
    (State.SCHEDULED, Skip.UNDER_WAY, Skip.UNDER_WAY),
    (State.SENDING, Skip.UNDER_WAY, Skip.UNDER_WAY),
    (State.RETRYING, Skip.UNDER_WAY, Skip.UNDER_WAY),
    (State.SENT, Skip.SENT, None),
    (State.IN_DOUBT, Skip.IN_DOUBT, None),
    (State.CANCELLED, Skip.CANCELLED, None),
]


@pytest.mark.parametrize(("state", "reason", "forced"), STATES_AND_REASONS, ids=[row[0] for row in STATES_AND_REASONS])
async def test_the_state_of_an_original_decides(store, sql, state, reason, forced):
    original = await put(sql, state)
    for force, expected in ((False, reason), (True, forced)):
        wanted = Wanted(Selection(ids=(original,)), force=force, reason="asked for again")
        count = await store.count(ME, wanted, within_s=5)
        assert (count.replayed, dict(count.skipped)) == ((1, {}) if expected is None else (0, {expected: 1}))
        assert not await replays_of(sql, original)
        identity = await order(store, wanted.selection, force=force, reason="asked for again")
        done = await run(store, sql, identity)
        assert (done["replayed"], done["skipped"]) == ((1, {}) if expected is None else (0, {expected: 1}))
        await sql.execute("DELETE FROM notifications WHERE replay_of = $1", original)


@pytest.mark.parametrize("state", [State.FAILED, State.BOUNCED])
async def test_what_was_handed_over_once_may_have_arrived_whatever_came_of_it_later(store, sql, state):
    original = await put(sql, state)
    await sql.execute("UPDATE notifications SET doubts = 1 WHERE id = $1", original)
    selection = Selection(ids=(original,))
    assert dict((await store.count(ME, Wanted(selection), within_s=5)).skipped) == {Skip.IN_DOUBT: 1}
    assert (await run(store, sql, await order(store, selection)))["skipped"] == {Skip.IN_DOUBT: 1}
    forced = await run(store, sql, await order(store, selection, force=True, reason="rather twice than never"))
    assert forced["replayed"] == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.QUEUED, Skip.UNDER_WAY),
        (State.SENT, Skip.SENT),
        (State.IN_DOUBT, Skip.IN_DOUBT),
        (State.FAILED, None),
    ],
    ids=["queued", "sent", "in_doubt", "failed"],
)
async def test_the_state_of_a_replay_decides_too(store, sql, state, reason):
    original = await put(sql)
    await run(store, sql, await order(store, Selection(ids=(original,))))
    [first] = await replays_of(sql, original)
    await settle(sql, original, state)
    # Asked for by the id of the replay: the original is meant, and stands in replay_of.
    done = await run(store, sql, await order(store, Selection(ids=(first["id"],))))
    assert (done["replayed"], done["skipped"]) == ((1, {}) if reason is None else (0, {reason: 1}))
    assert len(await replays_of(sql, original)) == (2 if reason is None else 1)


async def test_what_expired_is_sent_by_force_alone_and_then_without_its_expiry(store, sql):
    original = await put(sql, State.EXPIRED, expires_at=NOW - timedelta(minutes=1))
    done = await run(store, sql, await order(store, Selection(ids=(original,))))
    assert done["skipped"] == {"expired": 1}
    await run(store, sql, await order(store, Selection(ids=(original,)), force=True, reason="still wanted"))
    [made] = await replays_of(sql, original)
    assert made["expires_at"] is None
    assert made["fingerprint"] == fingerprint(make_content(html="<p>x</p>", metadata={"ñ": 1e16}))


async def test_unknown_foreign_repeated_and_empty_ones_are_told(store, sql):
    mine, foreign, nobodys, bare, another_services = (
        await put(sql),
        await put(sql, client=OTHER),
        await put(sql, client=None, producer="contact"),
        await put(sql, content=False),
        await put(sql, client=None, producer="crm", door="kafka"),
    )
    named = (mine, mine, foreign, new_id(), nobodys, bare, another_services)
    expected = {"repeated": 1, "unknown": 3, "no_content": 1}
    count = await store.count(ME, Wanted(Selection(ids=named)), within_s=5)
    assert (count.replayed, dict(count.skipped), count.complete) == (2, expected, True)
    done = await run(store, sql, await order(store, Selection(ids=named)))
    assert (done["replayed"], done["skipped"]) == (2, expected)
    assert not await replays_of(sql, foreign)
    assert not await replays_of(sql, another_services)
    [made] = await replays_of(sql, nobodys)
    assert (made["client"], made["producer"]) == (None, "contact")


@pytest.mark.parametrize("states", [(State.FAILED,), (State.FAILED, State.SENT)], ids=["rare", "common"])
@pytest.mark.parametrize("producer", [None, "crm"])
async def test_what_another_service_asked_for_by_kafka_is_no_candidate(store, sql, states, producer):
    wanted = {await put(sql, client=None, producer=each, door="kafka") for each in (ME, None)}
    another_services = await put(sql, client=None, producer="crm", door="kafka")
    done = await run(store, sql, await order(store, Selection(states=states, producer=producer)))
    assert done["replayed"] == (0 if producer else len(wanted))
    assert not await replays_of(sql, another_services)


async def test_a_record_that_calls_itself_a_replay_counts_as_none(store, sql):
    original = await put(sql)
    await put(sql, State.SENT, client=None, door="kafka", replay_of=original)
    done = await run(store, sql, await order(store, Selection(ids=(original,))))
    assert done["replayed"] == 1


async def test_status_window_and_producer_choose_among_mine_and_nobodys(store, sql):
    wanted = {
        await put(sql, age_s=50),
        await put(sql, State.BOUNCED, age_s=40),
        await put(sql, client=None, producer=ME, door="kafka", age_s=45),
        await put(sql, producer=None, age_s=41),  # written before producers were
    }
    for state, columns in (
        (State.SENT, {"age_s": 50}),
        (State.FAILED, {"age_s": 70}),
        (State.FAILED, {"age_s": 20}),
        (State.FAILED, {"age_s": 45, "client": OTHER}),
        (State.FAILED, {"age_s": 45, "client": None, "producer": "crm", "door": "kafka"}),
    ):
        await put(sql, state, **columns)
    selection = Selection(
        states=(State.FAILED, State.BOUNCED),
        accepted_from=NOW - timedelta(seconds=60),
        accepted_to=NOW - timedelta(seconds=30),
        producer=ME,
    )
    count = await store.count(ME, Wanted(selection), within_s=5)
    assert (count.replayed, dict(count.skipped), count.complete) == (4, {}, True)
    done = await run(store, sql, await order(store, selection))
    assert (done["state"], done["replayed"], done["skipped"]) == ("done", 4, {})
    made = await sql.fetch("SELECT replay_of FROM notifications WHERE replay IS NOT NULL")
    assert {row["replay_of"] for row in made} == wanted
    # The same again: each has a replay under way; and a replay is no candidate of its own.
    again = await run(store, sql, await order(store, selection))
    assert (again["replayed"], again["skipped"]) == (0, {"under_way": 4})


async def test_with_states_that_all_go_through_nothing_is_passed_over_either(store, sql):
    for _ in range(3):
        await put(sql, State.SENT)
        await put(sql, State.FAILED)
    selection = Selection(states=(State.SENT, State.FAILED))
    done = await run(store, sql, await order(store, selection))
    assert (done["replayed"], done["skipped"]) == (3, {"sent": 3})


async def test_what_was_accepted_after_the_order_is_not_its_business(store, sql):
    identity = await order(store, Selection(states=(State.FAILED,), accepted_to=NOW + timedelta(days=1)))
    await put(sql, age_s=-3600)
    done = await run(store, sql, identity)
    assert (done["state"], done["replayed"]) == ("done", 0)


async def test_few_matches_among_many_are_found_scan_by_scan(store, sql, monkeypatch):
    monkeypatch.setattr("ingest.replay_candidates.SCANNED_ROWS_MAX", 7)
    for place in range(40):
        await put(sql, State.BOUNCED if place % 13 == 0 else State.SENT, age_s=100 - place)
    selection = Selection(states=(State.BOUNCED, State.CANCELLED, State.SENT), producer=ME)
    count = await store.count(ME, Wanted(selection), within_s=5)
    assert (count.replayed, dict(count.skipped), count.complete) == (4, {"sent": 36}, True)
    done = await run(store, sql, await order(store, selection))
    assert (done["replayed"], done["skipped"]) == (4, {"sent": 36})


async def test_a_count_that_runs_out_of_time_says_so(store, sql, monkeypatch):
    monkeypatch.setattr("ingest.replay_store._COUNTED_ROWS_MAX", 2)
    for _ in range(5):
        await put(sql)
    count = await store.count(ME, Wanted(Selection(states=(State.FAILED,))), within_s=0)
    assert (count.replayed, count.complete) == (2, False)


async def test_a_long_count_of_one_client_holds_up_no_other_and_no_batch(store, sql, monkeypatch):
    mine, others = await put(sql), await put(sql, client=OTHER)
    begun, go_on = asyncio.Event(), asyncio.Event()
    judge = replay_store.judge

    async def slow(connection, page, *, order, force):
        if page.candidates[0].original == mine:
            begun.set()
            await go_on.wait()
        return await judge(connection, page, order=order, force=force)

    monkeypatch.setattr(replay_store, "judge", slow)
    long = asyncio.create_task(store.count(ME, Wanted(Selection(ids=(mine,))), within_s=60))
    async with asyncio.timeout(10):
        await begun.wait()
        theirs = Selection(ids=(others,))
        assert (await store.count(OTHER, Wanted(theirs), within_s=5)).replayed == 1
        assert (await run(store, sql, await order(store, theirs, client=OTHER), OTHER))["replayed"] == 1
    assert not long.done()
    go_on.set()
    assert (await long).replayed == 1


async def test_the_rate_says_how_many_go_at_once_and_when_the_next_are_due(store, sql):
    originals = [await put(sql) for _ in range(5)] + [await put(sql, State.SENT)]
    identity = await order(store, Selection(ids=tuple(originals)), rate_per_s=2)
    first = await store.advance()
    assert (first.replayed, first.done) == (2, False)
    assert await store.advance() is None
    due_s = await sql.fetchval("SELECT extract(epoch FROM next_at - now()) FROM replays")
    assert 0.5 < due_s <= 1
    done = await run(store, sql, identity)
    assert (done["state"], done["replayed"], done["skipped"]) == ("done", 5, {"sent": 1})
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE replay IS NOT NULL") == 5


async def test_a_batch_that_dies_before_its_commit_leaves_nothing_and_the_next_one_makes_it_good(
    store, sql, monkeypatch
):
    originals = [await put(sql) for _ in range(6)]
    identity = await order(store, Selection(ids=tuple(originals)), rate_per_s=3)
    assert (await store.advance()).replayed == 3
    await sql.execute("UPDATE replays SET next_at = now()")
    reached = asyncio.Event()

    async def hang(*_arguments):
        reached.set()
        await asyncio.Event().wait()

    # Everything of the batch is written but its position: the worst moment.
    real = asyncpg.Connection.execute

    async def execute(connection, sql_text, *arguments, **options):
        if sql_text.lstrip().startswith("UPDATE replays"):
            await hang()
        return await real(connection, sql_text, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "execute", execute)
        dying = asyncio.create_task(store.advance())
        await reached.wait()
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE replay IS NOT NULL") == 3
    done = await run(store, sql, identity)
    assert (done["state"], done["replayed"], done["skipped"]) == ("done", 6, {})
    made = await sql.fetch("SELECT replay_of FROM notifications WHERE replay IS NOT NULL")
    assert sorted(row["replay_of"] for row in made) == sorted(originals)


async def test_two_orders_at_once_replay_each_original_once(database, sql):
    originals = [await put(sql) for _ in range(60)]
    stores = [ReplayStore(database, name=f"test-{number}") for number in range(3)]
    for each in stores:
        await each.open()
    ids = [
        await order(stores[0], Selection(ids=tuple(originals if number % 2 else reversed(originals))), rate_per_s=1000)
        for number in range(6)
    ]
    while any(await asyncio.gather(*(each.advance() for each in stores for _ in range(2)))):
        pass
    done = [await stores[0].find(each, ME) for each in ids]
    assert [row["state"] for row in done] == ["done"] * 6
    assert sum(row["replayed"] for row in done) == 60
    assert sum(row["skipped"].get("under_way", 0) for row in done) == 300
    made = await sql.fetch("SELECT replay_of FROM notifications WHERE replay IS NOT NULL")
    assert sorted(row["replay_of"] for row in made) == sorted(originals)
    for each in stores:
        await each.close()


async def test_one_order_is_in_one_hand_at_a_time(store, sql, database):
    await order(store, Selection(ids=(await put(sql),)))
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT 1 FROM replays FOR NO KEY UPDATE")
    assert await store.advance() is None
    await transaction.rollback()
    await other.close()
    assert (await store.advance()).replayed == 1


async def test_after_an_order_is_called_off_it_makes_nothing_more(store, sql):
    originals = [await put(sql) for _ in range(4)]
    identity = await order(store, Selection(ids=tuple(originals)), rate_per_s=2)
    await store.advance()
    await store.cancel(identity, OTHER)
    assert (await store.find(identity, ME))["state"] == "running"
    await store.cancel(identity, ME)
    done = await run(store, sql, identity)
    assert (done["state"], done["replayed"]) == ("cancelled", 2)
    assert done["finished_at"] is not None
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE replay IS NOT NULL") == 2


async def test_orders_are_listed_newest_first_page_by_page_to_their_client(store, sql):
    ids = [await order(store, Selection(states=(State.FAILED,))) for _ in range(5)]
    await order(store, Selection(states=(State.FAILED,)), client=OTHER)
    first = await store.page(ME, after=None, rows=3)
    rest = await store.page(ME, after=first[-1]["id"], rows=3)
    assert [row["id"] for row in [*first, *rest]] == ids[::-1]
    assert await store.find(ids[0], OTHER) is None


async def test_an_order_whose_batch_fails_is_in_nobodys_way(store, sql, monkeypatch):
    broken = await order(store, Selection(ids=(await put(sql),)))
    await sql.execute("UPDATE replays SET next_at = now() - interval '1 h'")
    good = await order(store, Selection(ids=(await put(sql),)))
    real = replay_store.advance

    async def advance(connection, taken):
        if taken["id"] == broken:
            raise RuntimeError("a bug of ours")
        return await real(connection, taken)

    with monkeypatch.context() as patched:
        patched.setattr(replay_store, "advance", advance)
        with pytest.raises(RuntimeError):
            await store.advance()
        assert (await store.advance()).order == good
        assert await store.advance() is None
    # It was only put off.
    assert (await run(store, sql, broken))["replayed"] == 1


@pytest.mark.parametrize("owner", ["client = 'billing'", "client IS NULL"], ids=["mine", "nobodys"])
@pytest.mark.parametrize(
    "selection",
    [Selection(states=(State.FAILED,)), Selection(producer="crm"), Selection(states=(State.SENT,))],
    ids=["rare", "producer", "common"],
)
async def test_a_page_walks_along_an_index_however_many_rows_there_are(sql, owner, selection, monkeypatch):
    # Few beside those that match, as in a ledger of a million; otherwise to sort them all would do.
    monkeypatch.setattr(replay_candidates, "SCANNED_ROWS_MAX", 200)
    await sql.execute("""
        INSERT INTO notifications
            (id, fingerprint, state, door, client, channel, accepted_at, published_at, finished_at)
        SELECT gen_random_uuid(), '', CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'sent' END, 'http',
            CASE n % 3 WHEN 0 THEN 'billing' WHEN 1 THEN 'shop' END, 'email', now() - n * interval '1 s', now(), now()
        FROM generate_series(1, 60000) AS n
    """)
    await sql.execute("ANALYZE notifications")
    scans = [scan for scan in replay_candidates._scans(selection) if scan.owned == (owner != "client IS NULL")]
    for scan in scans:
        text = replay_candidates._scan_sql(scan, selection, 500)
        rows = await sql.fetch(
            f"EXPLAIN {text}",
            *(ME, NOW - timedelta(hours=9), replay_candidates._FIRST_ID, NOW, selection.producer),
            [state.value for state in selection.states],
        )
        plan = "\n".join(row[0] for row in rows)
        assert "notifications_listed" in plan, plan
        assert "Seq Scan" not in plan, plan
        assert "Sort" not in plan, plan


async def test_what_is_judged_is_found_by_its_ids(sql):
    await sql.execute("""
        INSERT INTO notifications (id, fingerprint, state, door, client, channel, accepted_at, replay_of, replay)
        SELECT gen_random_uuid(), '', 'sent', 'http', 'billing', 'email', now(), gen_random_uuid(), gen_random_uuid()
        FROM generate_series(1, 30000)
    """)
    await sql.execute("ANALYZE notifications")
    rows = await sql.fetch(f"EXPLAIN {replay_batch._JUDGE}", [new_id() for _ in range(500)], new_id(), False)
    plan = "\n".join(row[0] for row in rows)
    assert "notifications_replays" in plan, plan
    assert "Seq Scan on notifications" not in plan, plan
