"""Webhooks on a real PostgreSQL and real sockets: written once, claimed by one, signed, settled, swept."""

import asyncio
import re
import ssl
from datetime import timedelta
from ipaddress import ip_network

import aiohttp
import pytest
import trustme

from infra.background import Background
from infra.egress import Egress
from infra.health import Readiness
from infra.postgres import open_pool
from ingest import webhook_store
from ingest.webhook_requests import DeliveryQuery, Resend, Wanted
from ingest.webhook_store import WebhookStore
from schemas.identity import new_id
from schemas.results import now
from schemas.states import State
from schemas.webhooks import DEFAULT_STATUSES, DeliveryState, Receiver, new_secret
from sender.feed import webhook_ledger
from sender.feed.webhook_answers import Verdict
from sender.feed.webhook_lanes import Lanes
from sender.feed.webhook_ledger import NewDelivery, Troubles, WebhookLedger
from sender.feed.webhook_post import ANSWER_BYTES_MAX, Poster
from sender.feed.webhooks import WebhookResults
from tests import receiver
from tests.integration.ingest.process import make_database
from tests.results import as_record, changed, make_change, make_rejection

KEPT_S = 14 * 86_400.0
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

DELIVERED = Verdict(DeliveryState.DELIVERED, "http_200")
REFUSED = Verdict(DeliveryState.FAILED, "http_400")
POSTPONED = Verdict(DeliveryState.PENDING, "http_503", wait_s=0.0)


@pytest.fixture(scope="module")
def database(servers):
    return asyncio.run(make_database(servers.postgres_dsn))


@pytest.fixture
async def pool(database):
    opened = await open_pool(database, name="test", connections_max=8)
    yield opened
    await opened.execute("TRUNCATE webhooks, webhook_deliveries")
    await opened.close()


@pytest.fixture
async def store(database):
    opened = WebhookStore(database, name="test")
    yield opened
    await opened.close()


@pytest.fixture
def ledger(pool):
    return WebhookLedger(pool, kept_s=KEPT_S, clients={"billing", "shop"})


@pytest.fixture
def hook():
    running = receiver.Receiver()
    running.start()
    yield running
    running.stop()


async def subscribe(store, client="billing", url="http://localhost:1/", statuses=DEFAULT_STATUSES):
    secret = new_secret()
    webhook, _ = await store.set(client, Wanted(Receiver(url, "", 0), statuses), secret=secret)
    return webhook.id, secret


def told(client="billing", **changes):
    return make_change(producer=client, accepted_at=now(), occurred_at=now(), **changes)


async def fill(ledger, webhook, count, **changes):
    """Write *count* deliveries and return their event ids."""
    new = [
        NewDelivery(webhook, new_id(), new_id(), "notification.sent", b"{}", changes.get("occurred_at", now()))
        for _ in range(count)
    ]
    assert await ledger.write(new) == count
    return [each.event_id for each in new]


async def states(pool):
    return {row["event_id"]: row["state"] for row in await pool.fetch("SELECT event_id, state FROM webhook_deliveries")}


async def let_leases_run_out(pool):
    await pool.execute("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE state = 'pending'")


async def test_a_crash_between_writing_and_committing_the_offset_writes_nothing_twice(pool, store, ledger):
    await subscribe(store)
    records = [as_record(told()) for _ in range(20)]
    results = WebhookResults(ledger)
    await results.handle(records)
    await results.handle(records[::-1] + records)
    assert len(await states(pool)) == 20


async def test_each_webhook_is_told_of_its_clients_results_alone_and_of_the_statuses_it_wants(pool, store, ledger):
    billing, _ = await subscribe(store)
    shop, _ = await subscribe(store, "shop", statuses=(State.RETRYING,))
    sent, retried, foreign = told(), told("shop", status=State.RETRYING), told("other")
    unwanted = [told("shop"), told(status=State.QUEUED), told(None)]
    await WebhookResults(ledger).handle([*map(as_record, [sent, retried, foreign, *unwanted]), as_record(b"nothing")])
    rows = await pool.fetch("SELECT webhook, event_id, type FROM webhook_deliveries")
    assert {tuple(row) for row in rows} == {
        (billing, sent.event_id, "notification.sent"),
        (shop, retried.event_id, "notification.retrying"),
    }


async def test_a_rejection_without_an_id_reaches_the_producer_it_names(pool, store, ledger):
    await subscribe(store)
    rejected = make_rejection()
    await WebhookResults(ledger).handle([changed(rejected, producer="billing", occurred_at=now().isoformat())])
    assert list(await states(pool)) == [rejected.event_id]


async def test_nobody_is_told_of_what_was_before_its_webhook_or_is_too_old_to_be_kept(pool, store, ledger):
    webhook, _ = await subscribe(store)
    hour_ago = now() - timedelta(hours=1)
    results = WebhookResults(ledger)
    await results.handle([as_record(make_change(producer="billing", occurred_at=hour_ago))])
    assert await states(pool) == {}
    await pool.execute("UPDATE webhooks SET created_at = now() - interval '1 year' WHERE id = $1", webhook)
    await results.handle([as_record(make_change(producer="billing", occurred_at=hour_ago))])
    await results.handle([as_record(make_change(producer="billing", occurred_at=now() - timedelta(days=15)))])
    assert len(await states(pool)) == 1


async def test_a_claim_is_nobody_elses_until_its_lease_has_run_out(pool, store, ledger):
    webhook, _ = await subscribe(store)
    await fill(ledger, webhook, 1)
    (first,) = await ledger.claim(webhook, rows_max=8)
    assert await ledger.claim(webhook, rows_max=8) == []
    assert await ledger.due() == []
    await let_leases_run_out(pool)
    (second,) = await ledger.claim(webhook, rows_max=8)
    assert (first.attempt, second.attempt) == (1, 2)
    # Whoever was frozen meanwhile has nothing to say any more, unless it was delivered.
    assert not await ledger.settle(first, REFUSED)
    assert await ledger.settle(first, DELIVERED)
    assert not await ledger.settle(second, REFUSED)
    assert set((await states(pool)).values()) == {"delivered"}


async def test_two_claim_at_once_and_neither_gets_what_the_other_has(store, ledger):
    webhook, _ = await subscribe(store)
    events = await fill(ledger, webhook, 200)
    claims = await asyncio.gather(*(ledger.claim(webhook, rows_max=8) for _ in range(30)))
    claimed = [each.event_id for some in claims for each in some]
    while rest := await ledger.claim(webhook, rows_max=8):
        claimed += [each.event_id for each in rest]
    assert sorted(claimed) == sorted(events)


async def test_failing_is_marked_when_it_begins_and_taken_back_with_the_first_success(store, ledger):
    webhook, _ = await subscribe(store)
    await fill(ledger, webhook, 3)
    claims = await ledger.claim(webhook, rows_max=3)
    await ledger.settle(claims[0], POSTPONED)
    since = (await store.find("billing")).failing_since
    await ledger.settle(claims[1], POSTPONED)
    assert since is not None
    assert (await store.find("billing")).failing_since == since
    assert (await ledger.troubles(failing_s=0)).failing == 1
    assert (await ledger.troubles(failing_s=3600)).failing == 0
    await ledger.settle(claims[2], DELIVERED)
    assert (await store.find("billing")).failing_since is None


async def test_the_oldest_event_that_waits_is_told_and_those_of_disabled_webhooks_are_not(pool, store, ledger):
    webhook, _ = await subscribe(store)
    await pool.execute("UPDATE webhooks SET created_at = now() - interval '1 year'")
    assert (await ledger.troubles(failing_s=60)).oldest_s == 0
    await fill(ledger, webhook, 2, occurred_at=now() - timedelta(hours=1))
    assert 3600 <= (await ledger.troubles(failing_s=60)).oldest_s < 3660
    (claim,) = await ledger.claim(webhook, rows_max=1)
    await ledger.disable(claim, "http_410")
    assert await ledger.troubles(failing_s=60) == Troubles(disabled=1, failing=0, keyless=0, oldest_s=0.0)


async def test_a_disabled_webhook_loses_nothing_and_setting_it_again_lets_all_go(store, ledger):
    webhook, _ = await subscribe(store)
    events = await fill(ledger, webhook, 5)
    (claim, *_) = await ledger.claim(webhook, rows_max=2)
    assert await ledger.disable(claim, "http_410")
    assert not await ledger.disable(claim, "http_410")
    assert (await store.find("billing")).disabled_why == "http_410"
    assert await ledger.claim(webhook, rows_max=8) == []
    more = await fill(ledger, webhook, 1)
    assert (await subscribe(store))[0] == webhook
    assert {each.event_id for each in await ledger.claim(webhook, rows_max=8)} <= {*events, *more}
    assert (await store.find("billing")).disabled_at is None


async def test_who_has_no_key_any_more_is_told_nothing_and_a_key_brings_all_of_it(pool, store, ledger):
    webhook, _ = await subscribe(store)
    keyless = WebhookLedger(pool, kept_s=KEPT_S, clients={"shop"})
    result = told()
    await WebhookResults(keyless).handle([as_record(result)])
    assert await keyless.due() == []
    assert await keyless.claim(webhook, rows_max=8) == []
    assert await keyless.troubles(failing_s=60) == Troubles(disabled=0, failing=0, keyless=1, oldest_s=0.0)
    assert (await ledger.troubles(failing_s=60)).keyless == 0
    assert await ledger.due() == [webhook]
    (claim,) = await ledger.claim(webhook, rows_max=8)
    assert claim.attempt == 1


async def test_an_answer_from_an_address_that_was_left_disables_nothing(store, ledger):
    webhook, _ = await subscribe(store)
    await fill(ledger, webhook, 1)
    (claim,) = await ledger.claim(webhook, rows_max=1)
    await subscribe(store, url="http://localhost:2/")
    assert not await ledger.disable(claim, "http_410")


async def test_during_a_rotation_both_secrets_sign_and_afterwards_the_new_one_alone(pool, store, ledger):
    webhook, first = await subscribe(store)
    await fill(ledger, webhook, 2)
    second = new_secret()
    assert (await store.rotate("billing", secret=second)).previous_secret_until > now() + timedelta(hours=23)
    assert (await ledger.claim(webhook, rows_max=1))[0].secrets == (second, first)
    await pool.execute("UPDATE webhooks SET previous_until = now()")
    assert (await ledger.claim(webhook, rows_max=1))[0].secrets == (second,)


async def test_a_removed_webhook_is_swept_with_its_deliveries_and_a_new_one_begins_with_nothing(pool, store, ledger):
    webhook, secret = await subscribe(store)
    await fill(ledger, webhook, 7)
    await store.remove("billing")
    assert await store.find("billing") is None
    assert await ledger.due() == []
    assert secret not in {row["secret"] for row in await pool.fetch("SELECT secret FROM webhooks")}
    other, _ = await subscribe(store)
    assert other != webhook
    for _ in range(4):
        assert await ledger.delete_old(rows_max=3) == 0
    assert await states(pool) == {}
    # A batch that was being written just then may still bring some, so the row itself stays for an hour.
    assert await pool.fetchval("SELECT count(*) FROM webhooks") == 2
    await pool.execute("UPDATE webhooks SET removed_at = now() - interval '2 hours' WHERE id = $1", webhook)
    await ledger.delete_old(rows_max=3)
    assert await pool.fetchval("SELECT id FROM webhooks") == other


async def test_what_is_too_old_is_deleted_in_small_batches_and_what_waited_is_counted(pool, store, ledger):
    webhook, _ = await subscribe(store)
    young = await fill(ledger, webhook, 2)
    old = await fill(ledger, webhook, 5)
    await pool.execute(
        "UPDATE webhook_deliveries SET occurred_at = $2 WHERE event_id = ANY($1)", old, now() - timedelta(days=15)
    )
    await pool.execute("UPDATE webhook_deliveries SET state = 'delivered' WHERE event_id = $1", old[0])
    waited = [await ledger.delete_old(rows_max=3) for _ in range(3)]
    assert sum(waited) == 4
    assert set(await states(pool)) == set(young)


async def test_resending_by_id_or_window_makes_the_same_events_pending_and_leaves_what_is_under_way(
    pool, store, ledger
):
    webhook, _ = await subscribe(store)
    stranger, _ = await subscribe(store, "shop")
    events = await fill(ledger, webhook, 4)
    await fill(ledger, stranger, 1)
    claims = {each.event_id: each for each in await ledger.claim(webhook, rows_max=3)}
    done = list(claims)
    await ledger.settle(claims[done[0]], DELIVERED)
    await ledger.settle(claims[done[1]], REFUSED)
    window = Resend(since=now() - timedelta(hours=1), until=now() + timedelta(hours=1), failed_only=True)
    assert (await store.resend(webhook, window)).deliveries == 1
    named = {
        row["event_id"]: row["notification_id"]
        for row in await pool.fetch("SELECT event_id, notification_id FROM webhook_deliveries")
    }
    assert (await store.resend(webhook, Resend(ids=(named[done[0]],)))).deliveries == 1
    assert (await store.resend(stranger, Resend(ids=(named[done[0]],)))).deliveries == 0
    again = await ledger.claim(webhook, rows_max=8)
    assert {each.event_id: each.attempt for each in again} == {
        done[0]: 1,
        done[1]: 1,
        **dict.fromkeys(set(events) - set(done), 1),
    }
    # The third is still claimed by whoever began with it.
    assert await ledger.settle(claims[done[2]], DELIVERED)


async def test_a_window_that_is_too_large_says_where_it_goes_on(store, ledger, monkeypatch):
    monkeypatch.setattr("ingest.webhook_store.RESEND_ROWS_MAX", 3)
    webhook, _ = await subscribe(store)
    began = now()
    for second in range(7):
        await fill(ledger, webhook, 1, occurred_at=began + timedelta(seconds=second))
    for claim in await ledger.claim(webhook, rows_max=7):
        await ledger.settle(claim, DELIVERED)
    window, found = Resend(since=began, until=began + timedelta(hours=1)), []
    while window is not None:
        resent = await store.resend(webhook, window)
        found.append(resent.deliveries)
        window = None if resent.next_from is None else Resend(since=resent.next_from, until=window.until)
    assert found == [3, 3, 1]


async def test_pages_of_deliveries_hold_each_once_and_of_one_state_only_those(store, ledger):
    webhook, _ = await subscribe(store)
    at = now()
    events = await fill(ledger, webhook, 12, occurred_at=at)
    for claim in await ledger.claim(webhook, rows_max=5):
        await ledger.settle(claim, REFUSED)
    seen, after = [], None
    while rows := list(await store.deliveries(webhook, DeliveryQuery(limit=5, after=after)))[:5]:
        seen += [row["event_id"] for row in rows]
        after = rows[-1]["event_id"]
    assert sorted(seen) == sorted(events)
    assert len(seen) == len(set(seen))
    assert len(await store.deliveries(webhook, DeliveryQuery(after=new_id()))) == 0
    failed = await store.deliveries(webhook, DeliveryQuery(DeliveryState.FAILED))
    assert {row["answer"] for row in failed} == {"http_400"}
    assert len(failed) == 5
    assert len(await store.deliveries(webhook, DeliveryQuery(DeliveryState.PENDING))) == 7
    assert len(await store.deliveries(webhook, DeliveryQuery(DeliveryState.DELIVERED))) == 0


@pytest.fixture
async def many(pool, store):
    """A hundred thousand deliveries of one webhook, nearly all of them delivered, beside another one's."""
    webhook, _ = await subscribe(store)
    other, _ = await subscribe(store, "shop")
    await pool.execute(
        """
        INSERT INTO webhook_deliveries
            (webhook, event_id, notification_id, type, body, occurred_at, state, next_attempt_at)
        SELECT CASE WHEN n % 10 = 0 THEN $2::uuid ELSE $1::uuid END, gen_random_uuid(), gen_random_uuid(), 't', '', at,
            CASE WHEN n % 100 = 1 THEN 'failed' WHEN n % 100 = 2 THEN 'pending' ELSE 'delivered' END,
            CASE WHEN n % 100 = 2 THEN at END
        FROM generate_series(1, 100000) AS n, LATERAL (SELECT now() - n * interval '1 second' AS at) AS moment
        """,
        webhook,
        other,
    )
    await pool.execute("ANALYZE webhooks, webhook_deliveries")
    return webhook


@pytest.mark.parametrize(
    "name",
    [
        *("webhook_ledger._DUE", "webhook_ledger._CLAIM", "webhook_ledger._SETTLE", "webhook_ledger._TROUBLES"),
        *("webhook_ledger._DELETE_OLD", "webhook_store._RESEND_IDS", "webhook_store._RESEND_WINDOW"),
        *("webhook_store._PAGE_OF_ALL", "webhook_store._PAGES pending", "webhook_store._PAGES failed"),
    ],
)
async def test_every_statement_finds_its_deliveries_by_an_index(pool, many, name):
    module, _, named = name.partition(".")
    attribute, _, state = named.partition(" ")
    sql = getattr({"webhook_ledger": webhook_ledger, "webhook_store": webhook_store}[module], attribute)
    sql = sql[DeliveryState(state)] if state else sql
    count = max((int(number) for number in re.findall(r"\$(\d+)", sql)), default=0)
    async with pool.acquire() as connection:
        # As a server plans what it has seen often: without a look at the values.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE asked AS {sql}")
        values = f"({', '.join(['NULL'] * count)})" if count else ""
        plan = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE asked{values}")]
        await connection.execute("DEALLOCATE asked")
        await connection.execute("RESET plan_cache_mode")
    assert any("webhook_deliveries" in line for line in plan)
    assert not [line for line in plan if "Seq Scan on webhook_deliveries" in line], "\n".join(plan)


@pytest.fixture
async def feeds(pool, ledger):
    """Return a function that starts the lanes of one more feed."""
    background, started = Background(Readiness()), []

    def begin(waits_s=(0.1, 0.1, 0.1, 0.1, 0.1, 0.1)):
        poster = Poster(Egress(LOOPBACK), plain_allowed=True, ca_file=None)
        lanes = Lanes(ledger, poster, Readiness(), background, waits_s=waits_s)
        started.append((lanes, poster))
        return lanes

    yield begin
    for lanes, poster in started:
        await lanes.drain()
        await poster.close()
    await background.stop()


async def until(check, within_s=15.0):
    async with asyncio.timeout(within_s):
        while not await check():  # noqa: ASYNC110 -- the database tells nobody when it changes
            await asyncio.sleep(0.02)


async def test_two_feeds_deliver_each_event_once_between_them(pool, store, ledger, hook, feeds):
    webhook, secret = await subscribe(store, url=hook.url)
    events = await fill(ledger, webhook, 300)
    feeds()
    feeds()

    async def all_delivered():
        return set((await states(pool)).values()) == {"delivered"}

    await until(all_delivered)
    assert hook.times_taken() == dict.fromkeys(map(str, events), 1)
    assert all(each.verified(secret) == {} for each in hook.came)


async def test_whose_process_died_in_the_middle_is_delivered_again_under_the_same_id(pool, store, ledger, hook, feeds):
    webhook, _ = await subscribe(store, url=hook.url)
    (event,) = await fill(ledger, webhook, 1)
    (claim,) = await ledger.claim(webhook, rows_max=1)
    poster = Poster(Egress(LOOPBACK), plain_allowed=True, ca_file=None)
    assert (await poster.post(claim)).status == 200
    await poster.close()
    # It died here: the receiver has it, and nobody wrote that down.
    await let_leases_run_out(pool)
    feeds()

    async def delivered():
        return (await states(pool))[event] == "delivered"

    await until(delivered)
    assert hook.times_taken() == {str(event): 2}


@pytest.fixture
async def poster():
    opened = Poster(Egress(LOOPBACK), plain_allowed=True, ca_file=None)
    yield opened
    await opened.close()


async def one_claim(store, ledger, url):
    webhook, _ = await subscribe(store, url=url)
    await fill(ledger, webhook, 1)
    return (await ledger.claim(webhook, rows_max=1))[0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(store, ledger, hook, poster, status):
    hook.status = status
    hook.headers = {"Location": f"{hook.url}/elsewhere"}
    answer = await poster.post(await one_claim(store, ledger, hook.url))
    assert (answer.status, len(hook.came)) == (status, 1)


async def test_an_answer_of_any_length_costs_no_memory_and_its_head_counts(store, ledger, hook, poster):
    hook.headers = {"Content-Length": str(10**12), "Retry-After": "7"}
    hook.status = 503
    async with asyncio.timeout(10):
        answer = await poster.post(await one_claim(store, ledger, hook.url))
    assert (answer.status, answer.retry_after_s) == (503, 7.0)
    assert ANSWER_BYTES_MAX < 10**12


async def test_who_does_not_answer_or_is_not_there_is_told_by_a_word(store, ledger, hook, poster, monkeypatch):
    monkeypatch.setattr(poster._session, "_timeout", aiohttp.ClientTimeout(total=0.2))
    hook.pause_s = 1.0
    assert (await poster.post(await one_claim(store, ledger, hook.url))).code == "timeout"
    hook.stop()
    assert (await poster.post(await one_claim(store, ledger, hook.url))).code == "connection_failed"


async def test_the_certificate_of_a_receiver_is_verified(store, ledger, tmp_path):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    running = receiver.Receiver(tls)
    running.start()
    try:
        claim = await one_claim(store, ledger, running.url)
        for ca_file, code in ((None, "tls_failed"), (tmp_path / "ca.pem", "http_200")):
            poster = Poster(Egress(LOOPBACK), plain_allowed=False, ca_file=ca_file)
            assert (await poster.post(claim)).code == code
            await poster.close()
    finally:
        running.stop()
    assert len(running.came) == 1


async def test_what_may_no_longer_be_reached_is_not_even_after_it_was_set(store, ledger, hook):
    claim = await one_claim(store, ledger, hook.url)
    for egress, plain_allowed, code in (
        (Egress(()), True, "forbidden_address"),
        (Egress(LOOPBACK), False, "url_refused"),
    ):
        poster = Poster(egress, plain_allowed=plain_allowed, ca_file=None)
        assert (await poster.post(claim)).code == code
        await poster.close()
    assert hook.came == []


async def test_what_is_claimed_shows_neither_its_secrets_nor_its_address(store, ledger):
    claim = await one_claim(store, ledger, "http://localhost:1/token-in-the-path")
    assert "whsec_" not in repr(claim)
    assert "token" not in repr(claim)
