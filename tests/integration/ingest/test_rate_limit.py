"""Limits on a real Valkey: one count for all processes, an exact Retry-After, and an outage turns nobody away."""

import asyncio
import math
import secrets
import statistics
import time

import pytest
from redis import Redis

from ingest.rate_limit import Charge, Rate, RedisBuckets
from tests.integration.ingest.process import Ingest

NOTIFY = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}
FORM = {"name": "Elon", "email": "elon@xcorp.com", "message": "Hola"}
KEYS = {
    client: f"{client}-key-0123456789abcdef"
    for client in ("billing", "shop", "slow", "batches", "outage", "malformed", "orders")
}
# Slow enough that nothing comes back while a test looks: one in a hundred seconds, a hundred at once.
PER_S = 0.01
AT_ONCE = 100


def bearer(client):
    return {"Authorization": f"Bearer {KEYS[client]}"}


@pytest.fixture(scope="module")
def limited(place, tmp_path_factory):
    """Two processes that count together, and believe a proxy on this machine."""
    folder = tmp_path_factory.mktemp("limited")
    settings = {
        "profile": "production",
        "api_keys": ",".join(f"{client}:{key}" for client, key in KEYS.items()),
        "mail_from": "relevo@example.org",
        "notify_rate_per_s": PER_S,
        "contact_rate_per_min": 2,
        "orders_rate_per_min": 2,
        "trusted_proxies": "127.0.0.1",
    }
    services = []
    for name in ("one", "two"):
        (folder / name).mkdir()
        services.append(Ingest(folder / name, **place | settings))
    for service in services:
        service.start()
    yield services
    for service in services:
        assert service.stop() == 0, service.tail()


def opened(services):
    return sum(
        service.metric(f'relevo_rate_limit_open_total{{limit="{limit}"}}')
        for service in services
        for limit in ("notify", "contact", "orders")
    )


async def counted(services, run):
    """Call *run* until nobody passed uncounted meanwhile: on a busy machine Valkey may take longer than we wait."""
    for _ in range(10):
        before = opened(services)
        found = await run()
        if opened(services) == before:
            return found
        await asyncio.sleep(1.1)
    raise AssertionError("Valkey never answered in time")


async def test_one_limit_counts_over_all_processes(limited, http, servers):
    async def run():
        clear(servers)
        return await asyncio.gather(
            *(
                http("POST", f"{limited[number % 2].url}/api/notify/", json=NOTIFY, headers=bearer("billing"))
                for number in range(AT_ONCE + 20)
            )
        )

    answers = await counted(limited, run)
    assert sorted(answer.status for answer in answers) == [202] * AT_ONCE + [429] * 20
    refused = next(answer for answer in answers if answer.status == 429)
    assert (refused.body["code"], refused.headers["Content-Type"]) == ("rate_limited", "application/problem+json")
    other = await http("POST", f"{limited[0].url}/api/notify/", json=NOTIFY, headers=bearer("shop"))
    assert other.status == 202, "one client's flood is nothing to another"
    for path in ("/healthz", "/readyz", "/livez"):
        assert (await http("GET", f"{limited[0].url}{path}")).status == 200
    taken = next(answer for answer in answers if answer.status == 202)
    read = [
        await http("GET", f"{limited[0].url}{taken.headers['Location']}", headers=bearer("billing")) for _ in range(5)
    ]
    assert {each.status for each in read} == {200}, "reading is not limited"


def clear(servers):
    with Redis.from_url(servers.redis_url) as redis:
        for name in redis.scan_iter("relevo:rate:*"):
            redis.delete(name)


async def test_a_refused_key_is_not_remembered_and_works_once_there_is_room(limited, http, servers, sql):
    headers = bearer("slow") | {"Idempotency-Key": f"order-{secrets.token_hex(6)}"}

    async def run():
        clear(servers)
        full = {"items": [NOTIFY] * AT_ONCE}
        assert (
            await http("POST", f"{limited[0].url}/api/notify/batch", json=full, headers=bearer("slow"))
        ).status == 202
        return await http("POST", f"{limited[1].url}/api/notify/", json=NOTIFY, headers=headers)

    refused = await counted(limited, run)
    assert refused.status == 429
    assert 99 <= int(refused.headers["Retry-After"]) <= 100, "one comes back in a hundred seconds"
    clear(servers)
    taken = await http("POST", f"{limited[0].url}/api/notify/", json=NOTIFY, headers=headers)
    assert (taken.status, "Idempotency-Replayed" in taken.headers) == (202, False)


async def test_a_batch_costs_what_its_items_cost_and_is_taken_as_a_whole_or_not(limited, http, servers):
    async def run():
        clear(servers)
        return [
            await http(
                "POST",
                f"{limited[number % 2].url}/api/notify/batch",
                json={"items": [NOTIFY] * count},
                headers=bearer("batches"),
            )
            for number, count in enumerate((60, 60, 40, 1))
        ]

    answers = await counted(limited, run)
    assert [answer.status for answer in answers] == [202, 429, 202, 429]
    assert 1_990 <= int(answers[1].headers["Retry-After"]) <= 2_000, "twenty are missing"


@pytest.mark.parametrize("body", [b"{}", b"{", b'{"items": []}'], ids=["no items", "no JSON", "empty"])
async def test_a_batch_that_is_none_costs_as_much_as_one_notification(limited, http, servers, body):
    headers = bearer("malformed") | {"Content-Type": "application/json"}

    async def run():
        clear(servers)
        url = f"{limited[0].url}/api/notify/batch"
        most = {"items": [NOTIFY] * (AT_ONCE - 1)}
        first = await http("POST", url, json=most, headers=bearer("malformed"))
        return [first] + [await http("POST", url, data=body, headers=headers) for _ in range(2)]

    answers = await counted(limited, run)
    assert [answer.status // 100 for answer in answers] == [2, 4, 4]
    assert [answer.status == 429 for answer in answers] == [False, False, True]


async def test_replays_and_what_is_asked_of_webhooks_share_one_limit(limited, http, servers):
    async def run():
        clear(servers)
        return [
            await http("POST", f"{limited[0].url}{path}", json=body, headers=bearer("orders"))
            for path, body in (
                ("/api/replays", {"status": ["failed"], "dry_run": True}),
                ("/api/webhook/test", None),
                ("/api/replays", {"status": ["failed"]}),
                ("/api/webhook/test", None),
            )
        ]

    answers = await counted(limited, run)
    assert [answer.status for answer in answers] == [200, 404, 429, 429]
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 30


async def test_visitors_are_counted_by_their_address_behind_a_trusted_proxy(limited, http, servers):
    def send(service, *hops):
        headers = {"X-Forwarded-For": ", ".join(hops), "Origin": "https://www.example.org"}
        return http("POST", f"{service.url}/api/contact/", json=FORM, headers=headers)

    async def run():
        clear(servers)
        return [
            await send(limited[number % 2], hop, "203.0.113.7")  # the first hop is what the visitor says itself
            for number, hop in enumerate(("1.1.1.1", "2.2.2.2", "3.3.3.3"))
        ] + [await send(limited[0], "203.0.113.8")]

    answers = await counted(limited, run)
    assert [answer.status for answer in answers] == [202, 202, 429, 202]
    assert 25 <= int(answers[2].headers["Retry-After"]) <= 30, "two a minute: one in thirty seconds"


async def test_a_bucket_fills_and_empties_by_the_servers_clock_to_the_microsecond(servers, monkeypatch):
    monkeypatch.setattr("ingest.rate_limit.ANSWER_S_MAX", 10.0)  # of a busy machine, too
    rate, who = Rate.per("test", 1, 1, burst_min=3), secrets.token_hex(6)
    buckets = RedisBuckets(servers.redis_url, name="test")
    try:
        waits = await buckets.charge([Charge(rate, who, 1)] * 5)
        assert [bool(wait) for wait in waits] == [False, False, False, True, True]
        assert waits[3] == waits[4], "what was refused costs nothing"
        assert 0 < waits[3] <= 1_000_000
        # More than there ever is room for shows how full it is, and takes nothing.
        whole, more = await buckets.charge([Charge(rate, who, 10), Charge(rate, who, 11)])
        assert more - whole == 1_000_000
        await asyncio.sleep((whole - 7_000_000) / 1_000_000)
        assert await buckets.charge([Charge(rate, who, 3)]) == [0]
        assert 0 < await buckets._redis.pttl(f"relevo:rate:test:{who}") <= 3_000
    finally:
        await buckets.close()


async def test_while_valkey_hangs_everybody_passes_within_a_tenth_of_a_second_and_is_counted(limited, http, servers):
    async def run():
        clear(servers)
        full = {"items": [NOTIFY] * AT_ONCE}
        sent = await http("POST", f"{limited[0].url}/api/notify/batch", json=full, headers=bearer("outage"))
        assert sent.status == 202
        return await http("POST", f"{limited[0].url}/api/notify/", json=NOTIFY, headers=bearer("outage"))

    assert (await counted(limited, run)).status == 429
    before = opened(limited)
    seconds = []
    servers.pause("redis")
    try:
        for _ in range(20):
            begun = time.monotonic()
            answer = await http("POST", f"{limited[0].url}/api/notify/", json=NOTIFY, headers=bearer("outage"))
            seconds.append(time.monotonic() - begun)
            assert answer.status == 202
    finally:
        servers.resume("redis")
    assert statistics.median(seconds) < 0.1
    assert math.isclose(max(seconds), 0.1, abs_tol=0.4), "the first one waits for an answer, and no longer"
    assert opened(limited) - before == 20

    async def limited_again():
        return (
            await http("POST", f"{limited[0].url}/api/notify/", json=NOTIFY, headers=bearer("outage"))
        ).status == 429

    for _ in range(50):
        if await limited_again():
            return
        await asyncio.sleep(0.2)
    raise AssertionError("the limit did not come back with Valkey")
