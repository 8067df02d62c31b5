"""Webhooks from end to end: real receivers that are down, dead, gone and busy, and a feed that dies."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from uuid import uuid4

import asyncpg
import pytest

from infra.stack.ports import free_port
from tests.processes import eventually
from tests.receiver import Receiver
from tests.relevo import address

pytestmark = pytest.mark.timeout(300)

KEYS = {"alfa": "alfa-key-0123456789abc", "beta": "beta-key-0123456789abc"}
API_KEYS = ",".join(f"{name}:{key}" for name, key in KEYS.items())
# The schedule of a day, in seconds.
WAITS_S = "0.2,0.4,0.6,0.8,1,1,1,1,1,1,1,1,1,1,1"


class Client:
    """One service that has a key, and a webhook."""

    def __init__(self, url, name):
        self.url, self.name = url, name

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            self.url + path,
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {KEYS[self.name]}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"{}")

    def hook(self, receiver, **wanted):
        """Begin anew with a webhook at *receiver*; its secret."""
        self.call("DELETE", "/api/webhook")
        return self.call("PUT", "/api/webhook", {"url": receiver.url} | wanted)["secret"]

    def notify(self, to=""):
        request = {"to": to or address(), "subject": "s", "body": "b"}
        return self.call("POST", "/api/notify/", request)["id"]

    def deliveries(self, state=""):
        query = f"?state={state}" if state else ""
        return self.call("GET", f"/api/webhook/deliveries{query}")["items"]


@pytest.fixture(scope="module")
def door(relevo):
    """A door with two clients beside the one of all tests."""
    port = free_port()
    service = relevo.service("ingest", "ingest-hooks", RELEVO_API_KEYS=API_KEYS, RELEVO_HTTP_PORT=str(port))
    service.start()
    yield f"http://127.0.0.1:{port}"
    assert service.stop() == 0, service.tail()


@pytest.fixture(scope="module")
def feed(relevo):
    service = relevo.service("sender.feed", "feed", RELEVO_API_KEYS=API_KEYS, RELEVO_WEBHOOK_WAITS_S=WAITS_S)
    service.start()
    yield service
    assert service.stop() == 0, service.tail()


@pytest.fixture
def alfa(door, feed):
    client = Client(door, "alfa")
    yield client
    client.call("DELETE", "/api/webhook")


@pytest.fixture
def beta(door, feed):
    client = Client(door, "beta")
    yield client
    client.call("DELETE", "/api/webhook")


@contextmanager
def receivers(count=1):
    started = [Receiver() for _ in range(count)]
    for each in started:
        each.start()
    try:
        yield started
    finally:
        for each in started:
            each.stop()


@pytest.fixture
def hook():
    with receivers() as (one,):
        yield one


@pytest.fixture
def other_hook():
    with receivers() as (one,):
        yield one


def test_an_outcome_arrives_signed_with_what_the_topic_says(relevo, alfa, hook):
    secret = alfa.hook(hook)
    sent, bounced = alfa.notify(), alfa.notify(address("550"))
    eventually(lambda: hook.notifications() == {sent, bounced}, 30)
    for each in hook.came:
        event = each.verified(secret)
        (published,) = [result for result in relevo.results(event["data"]["id"]) if result["event_id"] == each.id]
        assert event["data"] == published
        assert event["type"] == f"notification.{published['status']}"
        assert event["timestamp"] == published["occurred_at"]
        assert each.headers["content-type"] == "application/json"
    assert {json.loads(each.body)["data"]["status"] for each in hook.came} == {"sent", "bounced"}
    # No address, subject or body, as nowhere in results.
    assert all(b"@example.org" not in each.body for each in hook.came)


def test_a_producer_of_the_kafka_door_is_told_of_its_own_rejections_too(relevo, alfa, hook):
    secret = alfa.hook(hook)
    good, bad = str(uuid4()), str(uuid4())
    relevo.produce({"id": good, "to": address(), "subject": "s", "body": "b", "producer": "alfa"})
    relevo.produce({"id": bad, "to": "nobody", "subject": "s", "body": "b", "producer": "alfa"})
    relevo.produce({"id": str(uuid4()), "to": address(), "subject": "s", "body": "b", "producer": "gamma"})
    eventually(lambda: hook.notifications() == {good, bad}, 30)
    told = {event["data"]["id"]: event["data"] for event in (each.verified(secret) for each in hook.came)}
    assert (told[good]["status"], told[bad]["status"]) == ("sent", "rejected")
    assert told[bad]["errors"][0]["pointer"] == "/to"


def test_a_receiver_that_was_down_gets_every_event_once_and_holds_up_nobody_else(alfa, beta, hook, other_hook):
    secret = alfa.hook(hook)
    beta.hook(other_hook)
    hook.stop()
    began = time.monotonic()
    waiting = {alfa.notify() for _ in range(30)}
    others = {beta.notify() for _ in range(30)}
    eventually(lambda: other_hook.notifications() == others, 30)
    assert max(each.at for each in other_hook.came) - began < 15
    eventually(lambda: alfa.call("GET", "/api/webhook")["failing_since"], 15)
    assert hook.came == []
    hook.start()
    eventually(lambda: hook.notifications() == waiting, 60)
    assert set(hook.times_taken().values()) == {1}
    assert all(each.verified(secret)["type"] == "notification.sent" for each in hook.taken)
    eventually(lambda: alfa.call("GET", "/api/webhook")["failing_since"] is None, 15)


def test_a_receiver_that_hangs_delays_nobody(alfa, beta, hook, other_hook):
    alfa.hook(hook)
    beta.hook(other_hook)
    hook.pause_s = 20.0
    for _ in range(20):
        alfa.notify()
    time_of = {}
    for _ in range(10):
        time_of[beta.notify()] = time.monotonic()
    eventually(lambda: other_hook.notifications() == set(time_of), 30)
    taken = {json.loads(each.body)["data"]["id"]: each.at for each in other_hook.taken}
    assert max(taken[each] - at for each, at in time_of.items()) < 10


def test_each_attempt_has_the_same_id_and_body_and_a_time_of_its_own(alfa, hook):
    secret = alfa.hook(hook)
    hook.script = [503, 500, 429]
    alfa.notify()
    eventually(lambda: len(hook.taken) == 1, 30)
    assert [each.answered for each in hook.came] == [503, 500, 429, 200]
    assert len({(each.id, each.body) for each in hook.came}) == 1
    assert all(each.verified(secret) for each in hook.came)
    (delivery,) = alfa.deliveries()
    assert (delivery["state"], delivery["attempt"], delivery["answer"]) == ("delivered", 4, "http_200")


def test_retry_after_is_kept(alfa, hook):
    alfa.hook(hook)
    hook.script, hook.headers = [429], {"Retry-After": "3"}
    alfa.notify()
    # Nobody is put off for longer than the longest wait of the schedule, which is a second here.
    eventually(lambda: len(hook.taken) == 1, 30)
    first, second = hook.came
    assert second.at - first.at >= 0.95


def test_a_mistake_in_the_routing_of_a_receiver_loses_nothing(alfa, hook):
    alfa.hook(hook)
    hook.script = [404, 401, 302, 403]
    alfa.notify()
    eventually(lambda: len(hook.taken) == 1, 30)
    assert [each.answered for each in hook.came] == [404, 401, 302, 403, 200]
    assert len({(each.id, each.body) for each in hook.came}) == 1


def test_a_refusal_that_lasts_fails_and_a_resend_brings_the_same_id(alfa, hook):
    secret = alfa.hook(hook)
    hook.status = 400
    refused = alfa.notify()
    (failed,) = eventually(lambda: alfa.deliveries("failed"), 60)
    attempts = 1 + len(WAITS_S.split(","))
    assert (failed["attempt"], failed["answer"], failed["notification_id"]) == (attempts, "http_400", refused)
    hook.status = 200
    assert alfa.call("POST", "/api/webhook/resend", {"ids": [refused]})["deliveries"] == 1
    eventually(lambda: len(hook.taken) == 1, 30)
    window = {"from": failed["occurred_at"], "to": "2100-01-01T00:00:00Z"}
    eventually(lambda: alfa.deliveries("delivered"), 15)
    assert alfa.call("POST", "/api/webhook/resend", window | {"failed_only": True})["deliveries"] == 0
    assert alfa.call("POST", "/api/webhook/resend", window)["deliveries"] == 1
    eventually(lambda: len(hook.taken) == 2, 30)
    assert {each.id for each in hook.came} == {failed["webhook_id"]}
    assert all(each.verified(secret) for each in hook.came)


def test_gone_disables_and_setting_it_again_brings_what_waited(feed, alfa, hook):
    alfa.hook(hook)
    hook.status = 410
    first = alfa.notify()
    eventually(lambda: alfa.call("GET", "/api/webhook")["disabled_why"] == "http_410", 30)
    asked = len(hook.came)
    second = alfa.notify()
    eventually(lambda: len(alfa.deliveries("pending")) == 2, 30)
    eventually(lambda: feed.metric('relevo_webhooks_in_trouble{trouble="disabled"}') == 1, 15)
    assert len(hook.came) == asked
    hook.status = 200
    changed = alfa.call("PUT", "/api/webhook", {"url": hook.url})
    assert (changed["disabled_at"], "secret" in changed) == (None, False)
    eventually(lambda: hook.notifications() == {first, second}, 30)


def test_who_has_lost_its_key_is_told_nothing_until_it_has_one_again(relevo, feed, alfa, hook):
    alfa.hook(hook)
    assert feed.stop() == 0
    others = relevo.service("sender.feed", "feed", RELEVO_API_KEYS=f"beta:{KEYS['beta']}")
    try:
        others.start()
        notified = alfa.notify()
        eventually(lambda: len(alfa.deliveries("pending")) == 1, 30)
        eventually(lambda: others.metric('relevo_webhooks_in_trouble{trouble="keyless"}') == 1, 15)
        assert not hook.came
        assert others.stop() == 0
    finally:
        others.stop()
        feed.start()
    eventually(lambda: hook.notifications() == {notified}, 30)


def test_while_secrets_rotate_either_verifies(alfa, hook):
    old = alfa.hook(hook)
    new = alfa.call("POST", "/api/webhook/rotate")["secret"]
    alfa.notify()
    eventually(lambda: len(hook.taken) == 1, 30)
    (came,) = hook.came
    assert came.verified(old) == came.verified(new)
    assert came.headers["webhook-signature"].count("v1,") == 2


def test_a_test_event_arrives(alfa, hook):
    secret = alfa.hook(hook)
    identity = alfa.call("POST", "/api/webhook/test")["webhook_id"]
    eventually(lambda: len(hook.taken) == 1, 30)
    assert hook.came[0].id == identity
    assert hook.came[0].verified(secret) == hook.came[0].verified(secret) | {"type": "webhook.test", "data": {}}


@pytest.mark.parametrize("failpoint", ["feed.after_webhooks_written", "feed.after_webhook_answer"])
def test_a_feed_that_dies_there_loses_no_event_and_repeats_none_under_another_id(relevo, feed, alfa, hook, failpoint):
    alfa.hook(hook)
    assert feed.stop() == 0
    settings = {"RELEVO_API_KEYS": API_KEYS, "RELEVO_WEBHOOK_WAITS_S": WAITS_S}
    doomed = relevo.service("sender.feed", "feed", **settings, RELEVO_FAILPOINT=f"{failpoint}:kill")
    doomed.start()
    try:
        sent = {alfa.notify() for _ in range(5)}
        eventually(lambda: not doomed.alive, 30)
    finally:
        doomed.kill()
        feed.start()
    # What it had claimed is free again when the lease has run out, which nobody here waits for.
    asyncio.run(let_leases_run_out(relevo.servers.postgres_dsn))
    eventually(lambda: hook.notifications() == sent, 60)
    assert len(hook.times_taken()) == 5
    if failpoint == "feed.after_webhooks_written":
        assert set(hook.times_taken().values()) == {1}


async def let_leases_run_out(dsn):
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE webhook_deliveries SET next_attempt_at = now() WHERE state = 'pending'")
    await connection.close()


def test_neither_secrets_nor_bodies_nor_receivers_are_in_the_log_of_the_feed(feed, alfa, hook):
    secret = alfa.hook(hook)
    hook.status = 500
    alfa.notify()
    eventually(lambda: len(hook.came) > 1, 30)
    text = feed.log.read_text()
    assert secret.removeprefix("whsec_") not in text
    assert str(hook.port) not in [word for line in text.splitlines() for word in line.split('"')]
    assert "/hook" not in text
