"""Replays through the door: who may order what, how it is answered, and what reaches Kafka."""

import json
from contextlib import suppress
from uuid import uuid4

import pytest

from schemas.topics import REQUESTED
from tests.processes import eventually
from tests.relevo import read_topic


@pytest.fixture
async def failed(ingest, http, sql):
    """Three notifications of this client that have failed."""
    ids = []
    for number in range(3):
        answer = await http(
            "POST",
            f"{ingest.url}/api/notify/",
            json={"to": f"t{number}@example.org", "subject": "s", "body": "b", "metadata": {"n": number}},
        )
        assert answer.status == 202
        ids.append(answer.body["id"])
    await sql.execute("UPDATE notifications SET state = 'failed', finished_at = now() WHERE id = ANY ($1)", ids)
    return ids


async def order(ingest, http, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http("POST", f"{ingest.url}/api/replays", json=body, headers=named)


async def ended(ingest, http, identity):
    while True:
        found = (await http("GET", f"{ingest.url}/api/replays/{identity}")).body
        if found["state"] != "running":
            return found


async def test_an_order_is_stored_carried_out_and_what_it_made_reaches_kafka(ingest, http, sql, servers, failed):
    body = {"ids": [*failed, str(uuid4())], "reason": "relay was down", "asked_by": "ana"}
    count = await order(ingest, http, body | {"dry_run": True})
    assert count.status == 200
    assert (count.body["replayed"], count.body["skipped"]["unknown"], count.body["complete"]) == (3, 1, True)
    assert await sql.fetchval("SELECT count(*) FROM replays") == 0
    made = await order(ingest, http, body)
    assert made.status == 202
    assert made.headers["Location"] == made.body["links"]["self"] == f"/api/replays/{made.body['id']}"
    assert (made.body["state"], made.body["client"]) == ("running", "local")
    found = await ended(ingest, http, made.body["id"])
    assert (found["state"], found["replayed"], found["skipped"]["unknown"]) == ("done", 3, 1)
    assert (found["reason"], found["asked_by"], found["selection"]) == ("relay was down", "ana", {"ids": body["ids"]})

    def replayed():
        items = []
        for record in read_topic(servers.kafka_bootstrap, REQUESTED.name):
            # Other tests leave there what nobody can read.
            with suppress(ValueError):
                parsed = json.loads(record.value() or b"null")
                items += parsed if isinstance(parsed, list) else [parsed]
        mine = [item for item in items if isinstance(item, dict) and item.get("replay_of") in failed]
        return {item["replay_of"]: item for item in mine}

    on_topic = eventually(lambda: len(found := replayed()) == 3 and found)
    rows = await sql.fetch("SELECT id, replay_of FROM notifications WHERE replay = $1", made.body["id"])
    assert {str(row["replay_of"]): str(row["id"]) for row in rows} == {
        original: item["id"] for original, item in on_topic.items()
    }
    assert {item["metadata"]["n"] for item in on_topic.values()} == {0, 1, 2}
    status = await http("GET", f"{ingest.url}/api/notifications/{on_topic[failed[0]]['id']}")
    assert (status.body["replay_of"], status.body["client"]) == (failed[0], "local")


async def test_the_same_order_again_is_one_order_and_another_one_under_its_key_is_refused(ingest, http, sql, failed):
    body, key = {"ids": failed}, str(uuid4())
    first = await order(ingest, http, body, Idempotency_Key=key)
    again = await order(ingest, http, body, Idempotency_Key=key)
    assert (first.status, again.status, again.body["id"]) == (202, 202, first.body["id"])
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await order(ingest, http, {"ids": failed[:1]}, Idempotency_Key=key)
    assert (other.status, other.body["code"]) == (409, "idempotency_conflict")
    await ended(ingest, http, first.body["id"])
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE replay_of = ANY ($1)", failed) == 3


async def test_an_order_that_is_called_off_stays_so_and_one_that_is_done_too(ingest, http, sql, failed):
    made = await order(ingest, http, {"ids": failed, "rate_per_s": 1})
    url = f"{ingest.url}/api/replays/{made.body['id']}"
    cancelled = await http("DELETE", url)
    assert (cancelled.status, cancelled.body["state"]) == (200, "cancelled")
    assert cancelled.body["replayed"] < 3
    await order_to_its_end(ingest, http, {"ids": [str(uuid4())]})
    assert (await http("GET", url)).body == cancelled.body
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE replay = $1", made.body["id"]) < 3
    done = await order_to_its_end(ingest, http, {"ids": [str(uuid4())]})
    assert (await http("DELETE", f"{ingest.url}{done['links']['self']}")).body == done


async def order_to_its_end(ingest, http, body):
    return await ended(ingest, http, (await order(ingest, http, body)).body["id"])


async def test_orders_are_listed_page_by_page_newest_first(ingest, http):
    ids = [(await order(ingest, http, {"ids": [str(uuid4())]})).body["id"] for _ in range(3)]
    url = "/api/replays?limit=2"
    listed = []
    while url and not set(ids) <= set(listed):
        page = await http("GET", ingest.url + url)
        assert page.status == 200
        listed += [each["id"] for each in page.body["items"]]
        url = page.body["next"]
        assert page.headers.get("Link") == (f'<{url}>; rel="next"' if url else None)
    assert [each for each in listed if each in ids] == ids[::-1]


@pytest.mark.parametrize("cursor", ["7", str(uuid4())], ids=["no_id", "no_order"])
async def test_a_cursor_that_is_made_up_is_refused(ingest, http, cursor):
    refused = await http("GET", f"{ingest.url}/api/replays?cursor={cursor}")
    assert (refused.status, refused.body["errors"][0]["code"]) == (422, "invalid_cursor")


async def test_what_is_wrong_is_told_all_at_once_and_stores_nothing(ingest, http, sql):
    before = await sql.fetchval("SELECT count(*) FROM replays")
    refused = await order(ingest, http, {"ids": ["secret"], "force": True, "x": 1}, Idempotency_Key="ñ")
    assert refused.status == 422
    assert {error["code"] for error in refused.body["errors"]} == {
        *("invalid_idempotency_key", "invalid_uuid", "required", "unknown_field")
    }
    assert b"secret" not in refused.raw
    assert await sql.fetchval("SELECT count(*) FROM replays") == before


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_order_of_another_client_and_none_under_a_wrong_id(ingest, http, sql, method):
    made = await order_to_its_end(ingest, http, {"ids": [str(uuid4())]})
    await sql.execute("UPDATE replays SET client = 'shop' WHERE id = $1", made["id"])
    for identity in (made["id"], str(uuid4()), "7"):
        refused = await http(method, f"{ingest.url}/api/replays/{identity}")
        assert (refused.status, refused.body["code"]) == (404, "not_found")


async def test_each_method_of_a_path_is_allowed_and_no_other(ingest, http):
    for path, methods in (
        ("/api/replays", "GET, HEAD, OPTIONS, POST"),
        ("/api/replays/7", "DELETE, GET, HEAD, OPTIONS"),
    ):
        for spelling in (path, f"{path}/"):
            allowed = await http("OPTIONS", ingest.url + spelling)
            assert (allowed.status, allowed.headers["Allow"]) == (204, methods)
            refused = await http("PUT", ingest.url + spelling)
            assert refused.status == 405
            assert set(refused.headers["Allow"].replace(" ", "").split(",")) == set(methods.replace(" ", "").split(","))
