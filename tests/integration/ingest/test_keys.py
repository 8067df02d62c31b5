"""Keys of different clients: they share one space of ids, and neither collide in it nor tell of each other."""

import asyncio
import secrets
import uuid

import pytest

from schemas.identity import id_from_key, id_in_batch
from tests.integration.ingest.process import Ingest

NOTIFY = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}
OTHER = NOTIFY | {"body": "Otra cosa."}
KEYS = {"billing": "billing-key-0123456789", "shop": "shop-key-0123456789xx"}


@pytest.fixture(scope="module")
def door(place, tmp_path_factory):
    service = Ingest(
        tmp_path_factory.mktemp("keys"),
        **place,
        profile="production",
        api_keys=",".join(f"{client}:{key}" for client, key in KEYS.items()),
        mail_from="relevo@example.org",
    )
    service.start()
    yield service
    assert service.stop() == 0, service.tail()


@pytest.fixture
def post(door, http):
    def call(client, body, key=None, path="/api/notify/"):
        headers = {"Authorization": f"Bearer {KEYS[client]}"} | ({} if key is None else {"Idempotency-Key": key})
        return http("POST", f"{door.url}{path}", json=body, headers=headers)

    return call


def said(answer):
    """Return all that a client learns from an answer, without what is different each time."""
    return answer.status, {**answer.body, "request_id": "", "trace_id": ""}, answer.headers.get("Idempotency-Replayed")


async def test_the_same_text_is_another_key_for_each_client(post):
    key = f"order-{secrets.token_hex(6)}"
    mine, theirs = await asyncio.gather(post("billing", NOTIFY, key), post("shop", OTHER, key))
    assert (mine.status, theirs.status) == (202, 202)
    assert mine.body["id"] != theirs.body["id"]
    batch = {"items": [NOTIFY]}
    first, second = [await post(client, batch, key, "/api/notify/batch") for client in KEYS]
    assert (first.status, second.status) == (202, 202)
    assert len({each.body["items"][0]["id"] for each in (first, second)} | {mine.body["id"], theirs.body["id"]}) == 4


async def test_another_clients_uuid_is_a_conflict_that_does_not_tell_whether_the_content_was_right(post, http, door):
    key = str(uuid.uuid4())
    assert (await post("billing", NOTIFY, key)).status == 202
    told = {repr(said(await post("shop", body, key))) for body in (NOTIFY, OTHER)}
    told |= {repr(said(await post("shop", body | {"id": key}))) for body in (NOTIFY, OTHER)}
    assert len(told) == 1
    assert "idempotency_conflict" in told.pop()
    batch = await post("shop", {"items": [NOTIFY | {"id": key}, OTHER | {"id": key}]}, path="/api/notify/batch")
    first, second = batch.body["items"]
    assert first == second
    assert first["error"]["code"] == "idempotency_conflict"
    authorization = {"Authorization": f"Bearer {KEYS['shop']}"}
    hidden = await http("GET", f"{door.url}/api/notifications/{key}", headers=authorization)
    absent = await http("GET", f"{door.url}/api/notifications/{uuid.uuid4()}", headers=authorization)
    assert (hidden.status, hidden.body["code"]) == (absent.status, absent.body["code"]) == (404, "not_found")
    assert (await post("billing", NOTIFY, key)).headers["Idempotency-Replayed"] == "true", "still its owner's"


@pytest.mark.parametrize("used", [True, False], ids=["a key in use", "a key nobody used"])
async def test_nobody_can_use_or_find_out_about_an_id_that_stands_for_another_clients_key(post, sql, used):
    key = f"order-{secrets.token_hex(6)}"
    if used:
        assert (await post("billing", NOTIFY, key)).status == 202
    # How an id is made of a key is no secret.
    for guessed in (id_from_key("billing", key), id_in_batch("billing", key, 0)):
        before = await sql.fetchval("SELECT count(*) FROM notifications")
        by_id = await post("shop", NOTIFY | {"id": str(guessed)})
        by_key = await post("shop", NOTIFY, str(guessed))
        in_batch = await post("shop", {"items": [NOTIFY | {"id": str(guessed)}]}, path="/api/notify/batch")
        assert (by_id.status, by_id.body["errors"][0]["code"]) == (422, "reserved_id")
        assert (by_key.status, by_key.body["errors"][0]["code"]) == (422, "reserved_id")
        assert in_batch.body["items"][0]["error"]["errors"][0]["code"] == "reserved_id"
        assert await sql.fetchval("SELECT count(*) FROM notifications") == before
    assert (await post("billing", NOTIFY, key)).headers.get("Idempotency-Replayed") == ("true" if used else None)


async def test_a_hundred_at_once_with_one_key_are_one_row_and_equal_answers(post, sql):
    key = f"order-{secrets.token_hex(6)}"
    answers = await asyncio.gather(*(post("billing", NOTIFY, key) for _ in range(100)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.raw for answer in answers}) == 1, "the id, and the trace of the first"
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE id = $1", uuid.UUID(answers[0].body["id"])) == 1
