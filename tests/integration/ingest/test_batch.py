"""Batches on real servers: one answer for each item, one key for the whole, nothing answered before it is durable."""

import asyncio
import io
import json
import secrets
import uuid
from datetime import UTC, datetime, timedelta

from tests.integration.ingest.process import Ingest

ITEM = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}


def items_of(count):
    return [ITEM | {"metadata": {"n": number}} for number in range(count)]


def key():
    return {"Idempotency-Key": f"nightly-{secrets.token_hex(6)}"}


async def rows_of(sql, ids):
    return await sql.fetchval("SELECT count(*) FROM notifications WHERE id = ANY($1::uuid[])", list(ids))


def ids_in(answer):
    return [item.get("id") for item in answer.body["items"]]


async def test_a_hundred_are_stored_in_one_transaction_and_answered_in_order(ingest, http, sql):
    answer = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items_of(100)})
    assert (answer.status, answer.body["accepted"], answer.body["refused"]) == (202, 100, 0)
    rows = await sql.fetch(
        "SELECT id::text, metadata->>'n' AS n, xmin::text AS transaction, client, producer FROM notifications "
        "WHERE id = ANY($1::uuid[])",
        ids_in(answer),
    )
    assert {row["id"]: int(row["n"]) for row in rows} == {each: place for place, each in enumerate(ids_in(answer))}
    assert len({row["transaction"] for row in rows}) == 1
    assert {(row["client"], row["producer"]) for row in rows} == {("local", "local")}
    assert len({item["trace_id"] for item in answer.body["items"]}) == 1


async def test_the_same_batch_with_the_same_key_is_taken_once_by_either_spelling(ingest, http, sql):
    headers = key()
    first = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items_of(20)}, headers=headers)
    again = await http("POST", f"{ingest.url}/api/notify/batch/", json={"items": items_of(20)}, headers=headers)
    assert (first.status, again.status) == (202, 202)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.body["items"] == [item | {"replayed": True} for item in first.body["items"]]
    assert await rows_of(sql, ids_in(first)) == 20


async def test_many_equal_batches_at_once_are_one(ingest, http, sql):
    headers = key()
    answers = await asyncio.gather(
        *(
            http("POST", f"{ingest.url}/api/notify/batch", json={"items": items_of(10)}, headers=headers)
            for _ in range(20)
        )
    )
    assert {answer.status for answer in answers} == {202}
    assert len({tuple(ids_in(answer)) for answer in answers}) == 1
    assert len({json.dumps([item["trace_id"] for item in answer.body["items"]]) for answer in answers}) == 1
    new = [item for answer in answers for item in answer.body["items"] if not item["replayed"]]
    assert sorted(item["id"] for item in new) == sorted(ids_in(answers[0]))
    assert await rows_of(sql, ids_in(answers[0])) == 10


async def test_what_is_fixed_or_added_is_taken_and_the_rest_is_found_again(ingest, http, sql):
    headers, items = key(), items_of(4)
    bad = [*items[:2], items[2] | {"to": "nobody", "subject": "x\n"}, items[3]]
    first = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": bad}, headers=headers)
    assert (first.status, first.body["accepted"], first.body["refused"]) == (207, 3, 1)
    error = first.body["items"][2]["error"]
    assert (error["code"], error["status"]) == ("invalid_request", 422)
    assert {each["pointer"] for each in error["errors"]} == {"/items/2/to", "/items/2/subject"}
    assert "nobody" not in first.raw.decode()
    fixed = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": [*items, ITEM]}, headers=headers)
    assert (fixed.status, fixed.body["accepted"]) == (202, 5)
    assert [item["replayed"] for item in fixed.body["items"]] == [True, True, False, True, False]
    assert "Idempotency-Replayed" not in fixed.headers
    fewer = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items[:1]}, headers=headers)
    assert fewer.headers["Idempotency-Replayed"] == "true"
    assert await rows_of(sql, ids_in(fixed)) == 5


async def test_another_order_is_other_content_except_for_items_with_ids_of_their_own(ingest, http, sql):
    headers, items = key(), items_of(5)
    items[0]["id"], items[1]["id"] = ids = [str(uuid.uuid4()) for _ in range(2)]
    first = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items}, headers=headers)
    moved = await http(
        "POST", f"{ingest.url}/api/notify/batch", json={"items": items[1::-1] + items[:1:-1]}, headers=headers
    )
    assert (first.status, moved.status) == (202, 207)
    assert [(item["id"], item["replayed"]) for item in moved.body["items"][:2]] == [(each, True) for each in ids[::-1]]
    codes = [item.get("error", {}).get("code") for item in moved.body["items"][2:]]
    assert codes == ["idempotency_conflict", None, "idempotency_conflict"], "the one in the middle has not moved"
    assert moved.headers["Idempotency-Replayed"] == "true", "nothing in it is new"
    assert await rows_of(sql, ids_in(first)) == 5


async def test_a_batchs_uuid_key_is_no_id_of_a_notification(ingest, http, sql):
    identity = str(uuid.uuid4())
    headers = {"Idempotency-Key": identity}
    single = await http("POST", f"{ingest.url}/api/notify/", json=ITEM, headers=headers)
    batch = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": [ITEM, ITEM]}, headers=headers)
    assert (single.body["id"], batch.status) == (identity, 202)
    assert len({identity, *ids_in(batch)}) == 3


async def test_the_same_id_twice_in_one_batch_is_one_and_another_content_a_conflict(ingest, http, sql):
    identity = str(uuid.uuid4())
    items = [ITEM | {"id": identity}, ITEM | {"id": identity}, ITEM | {"id": identity, "body": "Otra."}]
    answer = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items})
    assert [item.get("replayed", "conflict") for item in answer.body["items"]] == [False, True, "conflict"]
    assert await rows_of(sql, [identity]) == 1


async def test_an_item_for_later_says_so_and_says_it_again(ingest, http):
    headers, later = key(), (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    items = [ITEM, ITEM | {"scheduled_for": later}, ITEM | {"expires_at": "2020-01-01T00:00:00Z"}]
    for replayed in (False, True):
        answer = await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items}, headers=headers)
        told = [(item["status"], item["replayed"]) for item in answer.body["items"][:2]]
        assert told == [("queued", replayed), ("scheduled", replayed)]
        [error] = answer.body["items"][2]["error"]["errors"]
        assert (error["pointer"], error["code"]) == ("/items/2/expires_at", "already_expired")


async def test_a_body_that_is_no_batch_is_refused_as_a_whole(ingest, http):
    for raw, status, pointer in (
        (b'{"items": [', 400, ""),
        (b'{"items": [{"to": "a@b.org", "to": "c@d.org"}]}', 400, ""),
        (b"[]", 422, ""),
        (b'{"items": []}', 422, "/items"),
        (json.dumps({"items": [ITEM] * 101}).encode(), 422, "/items"),
    ):
        headers = {"Content-Type": "application/json"}
        answer = await http("POST", f"{ingest.url}/api/notify/batch", data=raw, headers=headers)
        assert (answer.status, answer.body["errors"][0]["pointer"]) == (status, pointer), raw[:20]
        assert answer.headers["Content-Type"] == "application/problem+json"


async def test_a_batch_may_be_larger_than_a_notification_and_is_bounded(ingest, http):
    def send(body, count):
        raw = io.BytesIO(json.dumps({"items": [ITEM | {"body": "x" * body}] * count}).encode())
        headers = {"Content-Type": "application/json"}
        return http("POST", f"{ingest.url}/api/notify/batch", data=raw, headers=headers)

    assert (await send(9_000, 100)).status == 202
    assert (await send(60_000, 1)).status == 202
    answer = await send(60_000, 20)
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")


async def test_one_line_tells_what_came_of_a_batch_and_nothing_of_its_content(ingest, http):
    canary = f"canary-{secrets.token_hex(4)}"
    items = [ITEM | {"subject": canary, "body": canary}, ITEM | {canary: canary}, ITEM | {"to": canary}]
    headers = {"X-Request-ID": f"r-{secrets.token_hex(4)}"}
    await http("POST", f"{ingest.url}/api/notify/batch", json={"items": items}, headers=headers)
    [line] = [each for each in ingest.events("batch_judged") if each["request_id"] == headers["X-Request-ID"]]
    assert (line["accepted"], line["replayed"], line["refused"]) == (1, 0, 2)
    assert canary not in ingest.log.read_text()


async def test_without_postgres_a_batch_is_a_503_that_is_not_remembered(servers, place, http, sql, tmp_path):
    headers, items = key(), items_of(5)
    service = Ingest(tmp_path, **place | {"postgres_dsn": "postgresql://nobody@127.0.0.1:1/nowhere"})
    service.spawn()
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await http(
                        "POST", f"{service.url}/api/notify/batch", json={"items": items}, headers=headers
                    )
                    break
                except OSError:
                    await asyncio.sleep(0.05)
    finally:
        service.stop()
    assert (answer.status, answer.body["code"]) == (503, "unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    service = Ingest(tmp_path, **place)
    service.start()
    try:
        later = await http("POST", f"{service.url}/api/notify/batch", json={"items": items}, headers=headers)
        assert (later.status, "Idempotency-Replayed" in later.headers) == (202, False)
        assert await rows_of(sql, ids_in(later)) == 5
    finally:
        service.stop()
