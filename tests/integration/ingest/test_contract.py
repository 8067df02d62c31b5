"""The Kafka contract at the HTTP door: its files, and what would become of a record."""

import asyncio
import io
import json
import secrets
import time
from uuid import uuid4

import pytest
import yaml

from schemas.topics import REQUESTED
from tests.integration.ingest.process import Ingest
from tests.processes import ROOT

CONTRACT = ROOT / "schemas" / "contract"
KEY = "a-key-of-twenty-characters"


def a_request(**changes):
    return {"id": str(uuid4()), "to": "a@example.org", "subject": "s", "body": "b"} | changes


@pytest.mark.parametrize("name", ["notifications.requested.json", "notifications.results.json", "DICTIONARY.md"])
async def test_a_file_of_the_contract_is_served_as_it_is(ingest, http, name):
    answer = await http("GET", f"{ingest.url}/schemas/{name}")
    assert (answer.status, answer.raw) == (200, (CONTRACT / name).read_bytes())
    assert answer.headers["Content-Type"].startswith("application/schema+json" if "json" in name else "text/markdown")


@pytest.mark.parametrize(
    "name", ["other.json", "asyncapi.yaml", "..%2f__init__.py", "%2e%2e", "notifications.dlq.json"]
)
async def test_what_is_no_file_of_the_contract_is_not_there(ingest, http, name):
    answer = await http("GET", f"{ingest.url}/schemas/{name}")
    assert (answer.status, answer.body["code"]) == (404, "not_found")


async def test_the_schemas_that_the_served_asyncapi_document_names_are_served(ingest, http):
    answer = await http("GET", f"{ingest.url}/asyncapi.yaml")
    document = yaml.safe_load(answer.raw)
    original = yaml.safe_load((CONTRACT / "asyncapi.yaml").read_text())
    assert (answer.status, document["channels"]) == (200, original["channels"])
    named = {
        message["payload"]["schema"]["$ref"]
        for message in document["components"]["messages"].values()
        if "schema" in message["payload"]
    }
    assert len(named) == 2
    for reference in named:
        assert (await http("GET", f"{ingest.url}/{reference}")).body["$id"].startswith("urn:relevo:schema:")


async def test_each_item_gets_its_own_verdict(ingest, http):
    items = [a_request(), a_request(to="nobody", subject="a\nb"), "text", a_request()]
    answer = await http("POST", f"{ingest.url}/api/validate/", data=json.dumps(items).encode())
    assert answer.status == 200
    first, second, third, fourth = answer.body["items"]
    assert first == {"index": 0, "id": items[0]["id"], "verdict": "accepted"}
    assert (second["index"], second["id"], second["verdict"]) == (1, items[1]["id"], "rejected")
    assert second["code"] == "invalid_request"
    assert {(each["pointer"], each["code"]) for each in second["errors"]} == {
        ("/to", "invalid_address"),
        ("/subject", "control_character"),
    }
    assert (third["id"], third["errors"][0]["pointer"]) == (None, "")
    assert fourth["verdict"] == "accepted"


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"{", b"[]", b"[" * 100_000, b"null"], ids=lambda body: str(body[:5])
)
async def test_what_is_no_request_is_an_answer_and_no_error(ingest, http, body):
    answer = await http("POST", f"{ingest.url}/api/validate", data=body, headers={"Content-Type": "x/y"})
    [only] = answer.body["items"]
    assert (answer.status, only["index"], only["id"], only["verdict"]) == (200, 0, None, "rejected")


async def test_the_attributes_of_an_event_count(ingest, http):
    content = {name: value for name, value in a_request().items() if name != "id"}
    identity = str(uuid4())
    headers = {"ce-specversion": "1.0", "CE-ID": identity, "ce-source": "/billing"}
    taken = await http("POST", f"{ingest.url}/api/validate", json=content, headers=headers)
    assert taken.body["items"] == [{"index": 0, "id": identity, "verdict": "accepted"}]
    refused = await http(
        "POST", f"{ingest.url}/api/validate", json=content, headers=headers | {"ce-specversion": "2.0"}
    )
    assert refused.body["items"][0]["errors"][0]["code"] == "unknown_version"


async def test_nothing_is_stored_and_nothing_is_repeated(ingest, http, sql):
    canary = f"canary-{secrets.token_hex(4)}"
    given = a_request(to=f"{canary}@example.org", subject=canary)
    await http("POST", f"{ingest.url}/api/validate?{canary}", json=given)
    wrong = await http("POST", f"{ingest.url}/api/validate", json=given | {canary: 1, "to": canary, "body": 7})
    assert canary not in wrong.raw.decode()
    assert canary not in ingest.log.read_text()
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE id = $1", given["id"]) == 0


async def test_a_record_of_the_largest_size_is_judged_and_nobody_waits_for_it(ingest, http):
    item = a_request(body="x" * 60_000)
    count = REQUESTED.record_bytes_max // (len(json.dumps(item)) + 2)
    value = json.dumps([item | {"id": str(uuid4())} for _ in range(count)]).encode().ljust(REQUESTED.record_bytes_max)
    judging = asyncio.create_task(http("POST", f"{ingest.url}/api/validate", data=io.BytesIO(value)))
    waits = []
    while not judging.done():
        begun = time.monotonic()
        await http("GET", f"{ingest.url}/livez")
        waits.append(time.monotonic() - begun)
    answer = await judging
    assert [each["verdict"] for each in answer.body["items"]] == ["accepted"] * count
    assert sorted(waits)[len(waits) // 2] < 0.2
    larger = await http("POST", f"{ingest.url}/api/validate", data=io.BytesIO(value + b" "))
    assert (larger.status, larger.body["code"]) == (413, "body_too_large")


async def test_many_large_records_at_once_are_all_judged(ingest, http):
    value = json.dumps([a_request(body="x" * 60_000) for _ in range(20)]).encode()
    answers = await asyncio.gather(
        *(http("POST", f"{ingest.url}/api/validate", data=io.BytesIO(value)) for _ in range(12))
    )
    assert {answer.status for answer in answers} == {200}


async def test_a_compressed_record_is_refused(ingest, http):
    answer = await http("POST", f"{ingest.url}/api/validate", data=b"x", headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")


async def test_a_key_is_asked_for_in_production(place, http, tmp_path):
    service = Ingest(tmp_path, **place, profile="production", api_keys=f"billing:{KEY}", mail_from="relevo@example.org")
    service.start()
    try:
        refused = await http("POST", f"{service.url}/api/validate", json=a_request())
        assert (refused.status, refused.body["code"]) == (401, "unauthorized")
        taken = await http(
            "POST", f"{service.url}/api/validate", json=a_request(), headers={"Authorization": f"Bearer {KEY}"}
        )
        assert taken.body["items"][0]["verdict"] == "accepted"
    finally:
        assert service.stop() == 0
