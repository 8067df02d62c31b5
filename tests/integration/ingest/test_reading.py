"""Reading over HTTP: lists page by page, and statuses that are waited for, on a real PostgreSQL."""

import asyncio
import signal
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from tests.integration.ingest.process import Ingest
from tests.processes import eventually

KEY, OTHER_KEY = "billing-key-0123456789", "shop-key-0123456789xx"
MINE, OTHERS = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture(scope="module")
def door(place, tmp_path_factory):
    service = Ingest(
        tmp_path_factory.mktemp("reading"),
        **place,
        profile="production",
        api_keys=f"billing:{KEY},shop:{OTHER_KEY}",
        mail_from="relevo@example.org",
        contact_rate_per_min=0,
    )
    service.start()
    yield service
    assert service.stop() == 0, service.tail()


@pytest.fixture
async def accept(door, http):
    async def accept(headers=MINE, **fields):
        request = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."} | fields
        answer = await http("POST", f"{door.url}/api/notify/", json=request, headers=headers)
        assert answer.status == 202, answer.body
        return answer.body["id"]

    return accept


@pytest.fixture
async def ask(door, http):
    async def ask(path, headers=MINE, method="GET"):
        return await http(method, door.url + path, headers=headers)

    return ask


async def finish(sql, *ids):
    await sql.execute("UPDATE notifications SET state = 'sent', finished_at = now() WHERE id = ANY ($1::uuid[])", ids)


# -- lists ----------------------------------------------------------------------------------------------------------


async def test_links_lead_through_all_of_it_and_to_an_end(accept, ask):
    to = f"t{uuid4().hex}@example.org"
    made = [await accept(to=to) for _ in range(7)]
    path, seen = f"/api/notifications?recipient={to.upper()}&limit=3", []
    while path is not None:
        answer = await ask(path)
        assert answer.status == 200, answer.body
        seen.append([item["id"] for item in answer.body["items"]])
        path = answer.body["next"]
        assert answer.headers.get("Link") == (None if path is None else f'<{path}>; rel="next"')
        assert to not in str(path)
    assert [len(page) for page in seen] == [3, 3, 1]
    assert {each for page in seen for each in page} == set(made)


async def test_a_list_is_newest_first_and_its_items_are_statuses_without_steps(accept, ask):
    made = [await accept() for _ in range(3)]
    for path in ("/api/notifications?status=queued&door=http&producer=billing&limit=3", "/api/notifications/?limit=3"):
        answer = await ask(path)
        assert [item["id"] for item in answer.body["items"]] == made[::-1]
        status = (await ask(f"/api/notifications/{made[-1]}")).body
        del status["timeline"]
        assert answer.body["items"][0].keys() == status.keys()
        moments = [item["accepted_at"] for item in answer.body["items"]]
        assert all(later >= earlier for later, earlier in pairwise(moments))


async def test_each_client_sees_its_own_and_what_is_nobodys(accept, ask, door, http):
    to = f"t{uuid4().hex}@example.org"
    mine, others = await accept(to=to), await accept(OTHERS, to=to)
    form = {"name": "Ana", "email": "ana@example.com", "message": "hola"}
    nobodys = (await http("POST", f"{door.url}/api/contact/", json=form)).body["id"]
    for headers, seen in ((MINE, mine), (OTHERS, others)):
        sent_there = await ask(f"/api/notifications?recipient={to}", headers)
        assert [item["id"] for item in sent_there.body["items"]] == [seen]
        newest = await ask("/api/notifications?limit=10", headers)
        assert {nobodys, seen} <= {item["id"] for item in newest.body["items"]}
        assert not {mine, others} - {seen} & {item["id"] for item in newest.body["items"]}
    # Another's cursor is a place in a list, and shows nobody what is not theirs.
    cursor = (await ask("/api/notifications?limit=1")).body["next"]
    assert mine not in str((await ask(cursor, OTHERS)).body)
    assert (await ask("/api/notifications", {})).status == 401


async def test_what_another_service_asked_for_by_kafka_can_be_read_and_not_changed(accept, ask, door, http, sql):
    theirs, mine = await accept(), await accept()
    for identity, producer in ((theirs, "crm"), (mine, "billing")):
        await sql.execute("UPDATE notifications SET client = NULL, producer = $2 WHERE id = $1", identity, producer)
    path = f"/api/notifications/{theirs}"
    assert (await ask(path)).status == 200
    put_off = {"scheduled_for": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    for unknown in (theirs, str(uuid4())):
        url = f"{door.url}/api/notifications/{unknown}"
        assert (await http("DELETE", url, headers=MINE)).body["code"] == "not_found"
        assert (await http("PATCH", url, json=put_off, headers=MINE)).body["code"] == "not_found"
    assert (await ask(path)).body["status"] == "queued"
    assert (await ask(f"/api/notifications/{mine}", method="DELETE")).body["status"] == "cancelled"


async def test_what_is_asked_wrongly_is_told_by_name(ask):
    answer = await ask("/api/notifications?limit=0&status=gone&colour=red")
    assert (answer.status, answer.body["code"]) == (422, "invalid_request")
    assert {error["pointer"] for error in answer.body["errors"]} == {"/limit", "/status", "/colour"}
    changed = (await ask("/api/notifications?limit=1")).body["next"][:-1] + "-"
    answer = await ask(changed)
    assert [error["code"] for error in answer.body["errors"]] == ["invalid_cursor"]


@pytest.mark.parametrize(
    "query", ["recipient=canary-{}@example.org", "recipient=canary-{}", "canary-{}=1", "cursor=canary-{}"]
)
async def test_no_part_of_a_query_is_repeated_or_logged(ask, door, query):
    canary = uuid4().hex
    answer = await ask(f"/api/notifications?{query.format(canary)}")
    assert answer.status in {200, 422}
    if not query.startswith("canary"):  # the name of an unknown parameter is told, as that of an unknown field
        assert canary.encode() not in answer.raw
    await ask(f"/api/notifications/{uuid4()}?recipient={canary}")
    assert canary not in door.log.read_text()


# -- waiting --------------------------------------------------------------------------------------------------------


async def test_who_waits_is_answered_as_soon_as_it_is_finished(accept, ask, sql):
    identity = await accept()
    waiting = asyncio.create_task(ask(f"/api/notifications/{identity}?wait=30"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    begun = time.monotonic()
    await finish(sql, identity)
    answer = await waiting
    assert time.monotonic() - begun < 5
    assert (answer.status, answer.body["status"], answer.body["terminal"]) == (200, "sent", True)
    # What is finished is waited for by nobody.
    begun = time.monotonic()
    assert (await ask(f"/api/notifications/{identity}?wait=30")).body["status"] == "sent"
    assert time.monotonic() - begun < 5


async def test_when_the_time_is_over_the_status_is_told_as_it_is(accept, ask):
    identity = await accept()
    begun = time.monotonic()
    answer = await ask(f"/api/notifications/{identity}/?wait=1")
    assert time.monotonic() - begun >= 0.95
    assert (answer.status, answer.body["status"], answer.body["terminal"]) == (200, "queued", False)


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", "", "1&wait=2", "9999999999"])
async def test_a_wait_that_cannot_be_understood_is_refused_at_once(ask, wait):
    answer = await ask(f"/api/notifications/{uuid4()}?wait={wait}")
    assert (answer.status, [error["pointer"] for error in answer.body["errors"]]) == (422, ["/wait"])


async def test_what_is_not_there_or_not_theirs_is_waited_for_by_nobody(accept, ask):
    identity = await accept()
    begun = time.monotonic()
    assert (await ask(f"/api/notifications/{uuid4()}?wait=30")).status == 404
    assert (await ask(f"/api/notifications/{identity}?wait=30", OTHERS)).status == 404
    assert time.monotonic() - begun < 5


async def test_eighty_who_wait_hold_no_connection_of_the_database(accept, ask, sql, door):
    ids = [await accept() for _ in range(5)]
    waiting = [asyncio.create_task(ask(f"/api/notifications/{each}?wait=30")) for each in ids * 16]
    await asyncio.to_thread(eventually, lambda: door.metric("relevo_http_waiting") == 80)
    open_now = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
        "AND pid <> pg_backend_pid()"
    )
    assert open_now <= 4
    assert (await ask("/api/notifications?limit=1")).status == 200
    await finish(sql, *ids)
    answers = await asyncio.gather(*waiting)
    assert {answer.body["status"] for answer in answers} == {"sent"}
    assert door.metric("relevo_http_waiting") == 0


async def test_at_its_end_a_service_answers_all_who_wait(place, tmp_path, http):
    service = Ingest(tmp_path, **place)
    service.start()
    request = {"to": "receiver@example.com", "subject": "s", "body": "b"}
    identity = (await http("POST", f"{service.url}/api/notify/", json=request)).body["id"]
    waiting = [
        asyncio.create_task(http("GET", f"{service.url}/api/notifications/{identity}?wait=60")) for _ in range(10)
    ]
    await asyncio.to_thread(eventually, lambda: service.metric("relevo_http_waiting") == 10)
    begun = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*waiting)
    assert time.monotonic() - begun < 5
    assert {(answer.status, answer.body["status"]) for answer in answers} == {(200, "queued")}
    assert await asyncio.to_thread(service.stop) == 0
