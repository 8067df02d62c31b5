"""The service as its clients see it, on real servers."""

import asyncio
import json
import secrets
import socket
import subprocess
import uuid

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from schemas.records import decode_requested, header
from schemas.topics import REQUESTED
from tests.integration.ingest.process import Ingest
from tests.processes import ROOT

NOTIFY = {"to": "receiver@example.com", "subject": "Alerta de Sistema", "body": "Se ha detectado algo."}
FORM = {"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un billón de notificaciones."}
KEY = "billing-key-0123456789"
OTHER_KEY = "shop-key-0123456789xx"
PAGE = {"Origin": "http://localhost:3000"}


async def records_of(place, ids):
    """Return what stands on notifications.requested of *ids*: id -> (notification, record)."""
    consumer = AIOKafkaConsumer(bootstrap_servers=place["kafka_bootstrap"], enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [TopicPartition(REQUESTED.name, number) for number in range(REQUESTED.partitions)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        found = {}
        async with asyncio.timeout(20):
            while len(found) < len(ids):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        for item in decode_requested(record.value, header(record.headers, "traceparent")):
                            if not isinstance(item, tuple) or str(item[1].id) not in ids:
                                continue
                            found[str(item[1].id)] = (item[1], record, item[0])
        return found
    finally:
        await consumer.stop()


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_three_calls_of_a_newcomer_work_as_they_stand(ingest, slash):
    calls = """
curl -X GET  http://localhost:8002/healthz/
curl -X POST http://localhost:8002/api/contact/ -H "Content-Type: application/json" -d '{"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un billón de notificaciones."}'
curl -X POST http://localhost:8002/api/notify/  -H "Content-Type: application/json" -d '{"to": "receiver@example.com", "subject": "Alerta de Sistema", "body": "Se ha detectado una actividad inusual en el puerto 8000."}'
"""  # noqa: E501 -- as they stand
    health, contact, notify = (
        calls.replace("8002", str(ingest.http_port)).replace("/ -H", f"{slash} -H").split("\n")[1:4]
    )

    def run(call):
        done = subprocess.run(["bash", "-c", f"{call} -s -w '\\n%{{http_code}}'"], capture_output=True, check=True)
        body, _, status = done.stdout.decode().rpartition("\n")
        return int(status), json.loads(body)

    assert run(health) == (200, {"status": "ok", "postgres": True, "redis": True, "kafka": True})
    status, answer = run(contact)
    assert status == 202
    assert answer == {
        "status": "queued",
        "message": "Mensaje de contacto recibido y encolado para notificación.",
        "id": str(uuid.UUID(answer["id"])),
    }
    status, answer = run(notify)
    assert status == 202
    assert answer["status"] == "queued"
    assert answer["links"] == {"self": f"/api/notifications/{answer['id']}"}
    assert len(answer["trace_id"]) == 32


async def test_what_is_accepted_is_on_the_topic_and_its_status_says_where(ingest, http, place):
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    answer = await http("POST", f"{ingest.url}/api/notify/", json=NOTIFY, headers={"traceparent": trace})
    assert answer.status == 202
    assert answer.body["trace_id"] == trace.split("-")[1]
    assert answer.headers["Location"] == f"/api/notifications/{answer.body['id']}"
    identity = answer.body["id"]
    notification, record, index = (await records_of(place, {identity}))[identity]
    assert notification.content.to == NOTIFY["to"]
    assert notification.traceparent.split("-")[1] == trace.split("-")[1]
    assert record.key is None
    assert header(record.headers, "relevo-door") == "http"
    for _ in range(100):
        status = (await http("GET", f"{ingest.url}{answer.headers['Location']}")).body
        if len(status["timeline"]) == 2:
            break
        await asyncio.sleep(0.02)
    published = status["timeline"][1]
    assert (published["partition"], published["offset"], published["index"]) == (record.partition, record.offset, index)
    # The record may have begun with a row of a commit just before.
    assert -5000 < record.timestamp - _ms(status["accepted_at"]) <= 1
    assert NOTIFY["to"] not in json.dumps(status)


def _ms(moment):
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp() * 1000


async def test_a_contact_message_reaches_every_recipient_in_a_trace_of_its_own(ingest, http, sql, place):
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    answer = await http("POST", f"{ingest.url}/api/contact/", json=FORM, headers={"traceparent": trace})
    assert answer.status == 202
    rows = await sql.fetch("SELECT * FROM notifications WHERE traceparent LIKE $1", f"%{trace.split('-')[1]}%")
    assert rows == []
    first = await sql.fetchval("SELECT traceparent FROM notifications WHERE id = $1", uuid.UUID(answer.body["id"]))
    rows = await sql.fetch(
        "SELECT id::text, recipient, reply_to, subject, client FROM notifications JOIN contents "
        "ON notification_id = id WHERE traceparent = $1",
        first,
    )
    assert {row["recipient"] for row in rows} == {"ventas@example.org", "jefa@example.org"}
    assert all((row["reply_to"], row["client"]) == ("elon@xcorp.com", None) for row in rows)
    assert len(await records_of(place, {row["id"] for row in rows})) == 2
    assert await sql.fetchval("SELECT message FROM contact_messages WHERE id = $1", uuid.UUID(answer.body["id"]))


async def test_the_same_key_is_taken_once(ingest, http, sql):
    headers = {"Idempotency-Key": f"order-{secrets.token_hex(8)}"}
    first = await http("POST", f"{ingest.url}/api/notify/", json=NOTIFY, headers=headers)
    again = await http("POST", f"{ingest.url}/api/notify", json=NOTIFY, headers=headers)
    assert (again.status, again.body) == (202, first.body)
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await http("POST", f"{ingest.url}/api/notify/", json=NOTIFY | {"body": "Otra."}, headers=headers)
    assert (other.status, other.body["code"]) == (409, "idempotency_conflict")
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE id = $1", uuid.UUID(first.body["id"])) == 1


async def test_many_at_once_with_the_same_id_are_one(ingest, http):
    identity = str(uuid.uuid4())
    bodies = [NOTIFY | {"id": identity, "body": f"Versión {number % 2}"} for number in range(40)]
    answers = await asyncio.gather(*(http("POST", f"{ingest.url}/api/notify/", json=body) for body in bodies))
    new = [each for each in answers if each.status == 202 and "Idempotency-Replayed" not in each.headers]
    assert len(new) == 1
    assert sorted({each.status for each in answers}) == [202, 409]
    assert sum(each.status == 409 for each in answers) == 20


@pytest.mark.parametrize("route", ["contact", "notify"])
@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"\xff\xfe{}", 400, "invalid_json"),
        (b"[" * 30_000, 400, "invalid_json"),
        (b'{"to":"a@example.com","to":"b@example.com"}', 400, "invalid_json"),
        (b'{"subject":"\\ud800"}', 400, "invalid_json"),
        (b'{"metadata":{"a":NaN}}', 400, "invalid_json"),
        (b'{"metadata":{"a":' + b"9" * 5000 + b"}}", 400, "invalid_json"),
        (b"[]", 422, "invalid_request"),
        (b'"x"', 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b" " * 65_537, 413, "body_too_large"),
    ],
)
async def test_a_body_that_cannot_be_taken_is_a_problem_and_leaves_nothing(ingest, http, sql, route, raw, status, code):
    before = await sql.fetchval("SELECT count(*) FROM notifications")
    headers = {"Content-Type": "application/json", **PAGE}
    answer = await http("POST", f"{ingest.url}/api/{route}/", data=raw, headers=headers)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["request_id"] == answer.headers["X-Request-ID"]
    assert ("Access-Control-Allow-Origin" in answer.headers) is (route == "contact")
    assert await sql.fetchval("SELECT count(*) FROM notifications") == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", "a@example.com,b@example.com"),
        ("to", "nobody"),
        ("to", "Elon <a@example.com>"),
        ("to", "a@example.com\r\nBcc: b@example.com"),
        ("to", "a@b>\r\nRCPT TO:<c@d"),
        ("subject", "x\r\nBcc: b@example.com"),
        ("subject", "x\x00"),
        ("subject", "x\u2028"),
        ("subject", " "),
        ("body", "\x00"),
        ("reply_to", "a@example.com\n"),
        ("metadata", {"a": [1]}),
        ("metadata", {"a\n": 1}),
        ("scheduled_for", "2030-01-01T00:00:00"),
        ("from", "boss@example.com"),
        ("channel", "sms"),
        ("id", "nope"),
    ],
)
async def test_a_wrong_field_is_named_and_never_repeated(ingest, http, field, value):
    answer = await http("POST", f"{ingest.url}/api/notify/", json=NOTIFY | {field: value})
    assert (answer.status, answer.body["code"]) == (422, "invalid_request")
    assert answer.body["errors"][0]["pointer"].startswith(f"/{field}")
    if isinstance(value, str) and value.strip() and value != "x\x00":
        assert json.dumps(value)[1:-1] not in answer.raw.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "identity"},
    ],
)
async def test_another_type_is_refused_before_it_is_read(ingest, http, headers):
    answer = await http("POST", f"{ingest.url}/api/notify/", data=json.dumps(NOTIFY).encode(), headers=headers)
    assert (answer.status, answer.body["code"]) == (415, "unsupported_media_type")


async def test_a_body_without_a_length_is_bounded_too(ingest, http):
    async def endless():
        for _ in range(100):
            yield b" " * 8192

    answer = await http(
        "POST", f"{ingest.url}/api/notify/", data=endless(), headers={"Content-Type": "application/json"}
    )
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/api/notify/", {"POST", "OPTIONS"}),
        ("PUT", "/api/contact", {"POST", "OPTIONS"}),
        (
            *("PUT", "/api/notifications/0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"),
            {"GET", "HEAD", "OPTIONS", "DELETE", "PATCH"},
        ),
    ],
)
async def test_a_method_that_is_not_there_is_told_which_are(ingest, http, method, path, allow):
    answer = await http(method, f"{ingest.url}{path}")
    assert (answer.status, answer.body["code"]) == (405, "method_not_allowed")
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allow
    options = await http("OPTIONS", f"{ingest.url}{path}")
    assert options.status == 204
    assert set(options.headers["Allow"].replace(" ", "").split(",")) == allow


@pytest.mark.parametrize("path", ["/healthz", "/livez/", "/readyz", "/openapi.yaml", "/docs/"])
async def test_head_answers_as_get_without_a_body(ingest, http, path):
    head, got = await http("HEAD", f"{ingest.url}{path}"), await http("GET", f"{ingest.url}{path}")
    assert (head.status, head.raw) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.raw))


@pytest.mark.parametrize(
    "path",
    ["/", "/api", "/api/nothing/", "/api/notifications/x", "/api/notifications/%ff%00", "/%zz", "//", "/../x"],
)
async def test_a_path_that_is_not_there_is_a_problem(ingest, path):
    status, _, body = raw_call(
        ingest.http_port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    )
    assert status == 404
    assert json.loads(body)["code"] == "not_found"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /canary-7f3a HTTP/1.1\r\nHost x canary-7f3a\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/notify/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/notify/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_problem_that_repeats_nothing(ingest, request_bytes):
    status, head, body = raw_call(ingest.http_port, request_bytes)
    assert status == 400
    assert "application/problem+json" in head
    assert json.loads(body)["code"] == "bad_request"
    assert "canary" not in body


def raw_call(port, data, *, timeout_s=15):
    """Send *data* as it is and return status, head and body of the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(data)
        got = b""
        while chunk := connection.recv(65536):
            got += chunk
    head, _, body = got.decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def test_a_body_that_does_not_come_is_not_waited_for_longer_than_ten_seconds(ingest):
    head = b"POST /api/notify/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    status, _, body = raw_call(ingest.http_port, head, timeout_s=20)
    assert status == 408
    assert json.loads(body)["code"] == "body_timeout"


def test_a_client_that_asks_first_is_told_before_it_sends(ingest):
    head = (
        "POST /api/notify/ HTTP/1.1\r\nHost: x\r\n"
        "Content-Type: {}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
    )
    for kind, length, expected in (
        ("text/plain", 5, b"415"),
        ("application/json", 5, b"100"),
        ("application/json", 70_000, b"413"),
    ):
        with socket.create_connection(("127.0.0.1", ingest.http_port), timeout=5) as connection:
            connection.sendall(head.format(kind, length).encode())
            assert connection.recv(12)[-3:] == expected


async def test_a_browser_on_another_origin_may_use_the_contact_form_only(ingest, http):
    asked = {**PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = await http("OPTIONS", f"{ingest.url}/api/contact/", headers=asked)
    assert preflight.status == 204
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
    answer = await http("POST", f"{ingest.url}/api/contact/", json=FORM, headers=PAGE)
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
    for method, path, headers in (
        ("OPTIONS", "/api/contact/", {**asked, "Origin": "https://evil.example"}),
        ("POST", "/api/contact/", {"Origin": "https://evil.example"}),
        ("OPTIONS", "/api/notify/", asked),
        ("POST", "/api/notify/", PAGE),
    ):
        other = await http(method, f"{ingest.url}{path}", headers=headers)
        assert not [name for name in other.headers if name.lower().startswith("access-control")]


async def test_a_request_keeps_its_id_and_its_logs_hold_nothing_personal(ingest, http):
    request_id = f"r-{secrets.token_hex(4)}"
    canary = f"canary-{secrets.token_hex(4)}"
    body = NOTIFY | {"to": f"{canary}@example.com", "subject": canary, "body": canary}
    headers = {"X-Request-ID": request_id, "Authorization": f"Bearer {canary}"}
    refused = await http("POST", f"{ingest.url}/api/notify/?{canary}=1", json=body, headers=headers)
    assert refused.status == 401
    del headers["Authorization"]
    answer = await http("POST", f"{ingest.url}/api/notify/", json=body, headers=headers)
    assert answer.headers["X-Request-ID"] == request_id
    lines = [line for line in ingest.events("request_answered") if line["request_id"] == request_id]
    assert [line["status"] for line in lines] == [401, 202]
    assert lines[1]["notification_id"] == answer.body["id"]
    assert lines[1]["trace_id"] == answer.body["trace_id"]
    assert lines[1]["route"] == "/api/notify/"
    assert lines[1]["duration_ms"] > 0
    assert len([line for line in ingest.events("request_received") if line["request_id"] == request_id]) == 2
    assert canary not in ingest.log.read_text()
    bad = await http("GET", f"{ingest.url}/livez", headers={"X-Request-ID": "a b"})
    assert bad.headers["X-Request-ID"] != "a b"


async def test_answers_are_not_sniffed_stored_or_rendered(ingest, http):
    for path in ("/livez", "/nothing", "/docs", "/openapi.yaml"):
        headers = (await http("GET", f"{ingest.url}{path}")).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "aiohttp" not in headers["Server"]


async def test_the_contract_is_served(ingest, http):
    assert (await http("GET", f"{ingest.url}/openapi.yaml")).raw == (ROOT / "openapi.yaml").read_bytes()


async def test_its_metrics_count_by_route_and_hold_no_ids(ingest, http):
    await http("GET", f"{ingest.url}/api/notifications/{uuid.uuid4()}")
    await http("GET", f"{ingest.url}/{secrets.token_hex(8)}")
    metrics = (await http("GET", f"{ingest.ops_url}/metrics")).raw.decode()
    assert 'relevo_http_requests_total{route="/api/notifications/{id}",status="404"}' in metrics
    assert 'relevo_http_requests_total{route="unknown",status="404"}' in metrics
    assert 'relevo_accepted_total{answer="new"}' in metrics


@pytest.fixture(scope="module")
def production(place, tmp_path_factory):
    service = Ingest(
        tmp_path_factory.mktemp("production"),
        **place,
        profile="production",
        api_keys=f"billing:{KEY},shop:{OTHER_KEY}",
        mail_from="relevo@example.org",
        cors_origins="https://www.example.org",
    )
    service.start()
    yield service
    assert service.stop() == 0


async def test_outside_development_nothing_is_open(production, http):
    bad = (None, "Bearer", "Bearer nobody", f"Basic {KEY}", f"Bearer {KEY}x")
    answers = []
    for authorization in bad:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await http("POST", f"{production.url}/api/notify/", json=NOTIFY, headers=headers)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        answers.append((answer.status, {**answer.body, "request_id": "", "trace_id": ""}))
        assert (await http("GET", f"{production.url}/api/notifications/{uuid.uuid4()}", headers=headers)).status == 401
    assert answers[0][0] == 401
    assert all(each == answers[0] for each in answers)
    local = await http("OPTIONS", f"{production.url}/api/contact/", headers=PAGE)
    assert "Access-Control-Allow-Origin" not in local.headers


async def test_a_client_sees_its_own_notifications_only(production, http):
    mine, other = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {OTHER_KEY}"}
    answer = await http("POST", f"{production.url}/api/notify/", json=NOTIFY, headers=mine)
    location = f"{production.url}{answer.headers['Location']}"
    assert (await http("GET", location, headers=mine)).body["client"] == "billing"
    assert (await http("GET", location, headers=other)).status == 404
    stolen = NOTIFY | {"id": answer.body["id"]}
    taken = await http("POST", f"{production.url}/api/notify/", json=stolen, headers=other)
    assert (taken.status, taken.body["code"]) == (409, "idempotency_conflict")
    form = await http("POST", f"{production.url}/api/contact/", json=FORM)
    public = f"{production.url}/api/notifications/{form.body['id']}"
    assert (await http("GET", public, headers=other)).status == 200


@pytest.mark.parametrize("missing", ["api_keys", "contact_recipients", "mail_from"])
def test_in_production_it_refuses_to_start_without_what_it_needs(place, tmp_path, missing):
    settings = place | {
        "profile": "production",
        "api_keys": f"billing:{KEY}",
        "mail_from": "relevo@example.org",
        "contact_recipients": "a@example.org",
    }
    service = Ingest(tmp_path, **(settings | {missing: ""}))
    with pytest.raises(AssertionError, match=f"RELEVO_{missing.upper()}"):
        service.start()
    assert service.process is not None
    assert service.process.wait() == 78


async def test_a_port_that_is_taken_is_named(ingest, place, tmp_path):
    service = Ingest(tmp_path, **place, http_port=ingest.http_port)
    with pytest.raises(AssertionError, match="RELEVO_HTTP_PORT"):
        service.start()


async def test_a_request_under_way_is_finished_when_it_ends(place, tmp_path):
    service = Ingest(tmp_path, **place)
    service.start()
    release = asyncio.Event()

    async def slowly():
        yield json.dumps(NOTIFY).encode()[:20]
        await release.wait()
        yield json.dumps(NOTIFY).encode()[20:]

    async with aiohttp.ClientSession() as session:
        headers = {"Content-Type": "application/json"}
        posting = asyncio.create_task(session.post(f"{service.url}/api/notify/", data=slowly(), headers=headers))
        await asyncio.sleep(0.3)
        stopping = asyncio.create_task(asyncio.to_thread(service.stop))
        await asyncio.sleep(0.5)
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{service.url}/livez")
        release.set()
        answer = await posting
        assert answer.status == 202
        identity = (await answer.json())["id"]
    assert await stopping == 0
    assert identity in await records_of(place, {identity})
