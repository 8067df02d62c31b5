"""Later, by both doors: never early, soon after, once, through restarts of everything; and called off or put off."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from tests.processes import eventually
from tests.relevo import address

pytestmark = pytest.mark.timeout(180)

LATENESS_S_MAX = 5.0


def at(seconds):
    """The moment *seconds* from now, to the millisecond, which is what the sink tells."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def a_request(**fields):
    return {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"} | fields


def call(relevo, method, identity, body=None):
    """DELETE or PATCH one notification; status and document."""
    data = None if body is None else json.dumps(body).encode()
    url = f"{relevo.url}/api/notifications/{identity}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def lateness_s(mailbox, due):
    """How many seconds after *due* each mail of each id in it arrived, by id."""
    late = {each: [] for each in due}
    for mail in mailbox.messages():
        if (identity := mail["notification_id"]) in late:
            late[identity].append((datetime.fromisoformat(mail["received_at"]) - due[identity]).total_seconds())
    return late


def told(relevo, ids):
    """What the results say of each id, in order, copies folded away."""
    found = {each: [] for each in ids}
    for result in relevo.results():
        if result["id"] in found:
            found[result["id"]].append(result["status"])
    return found


def test_what_is_for_later_is_sent_then_and_says_so_by_both_doors(relevo, mailbox):
    due = at(3)
    local = due.astimezone(ZoneInfo("America/Mexico_City")).replace(tzinfo=None).isoformat()
    over_http, by_kafka = (a_request(scheduled_for=local, time_zone="America/Mexico_City") for _ in range(2))
    status, answer, _ = relevo.post("/api/notify/", over_http)
    assert (status, answer["status"]) == (202, "scheduled")
    relevo.produce(by_kafka)
    ids = [over_http["id"], by_kafka["id"]]
    for identity in ids:
        waiting = relevo.wait_for(identity, "scheduled", 3)
        assert datetime.fromisoformat(waiting["scheduled_for"]) == due
    for identity in ids:
        relevo.wait_for(identity, "sent")
    for late in lateness_s(mailbox, dict.fromkeys(ids, due)).values():
        assert len(late) == 1
        assert 0 <= late[0] <= LATENESS_S_MAX
    eventually(lambda: told(relevo, ids) == {each: ["scheduled", "sent"] for each in ids})


def test_500_that_are_due_at_once_are_never_early_and_soon_there(relevo, mailbox):
    moment = at(12)
    requests = [a_request(scheduled_for=moment.isoformat()) for _ in range(500)]
    relevo.produce(requests[:250])
    with ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda each: relevo.post("/api/notify/", each)[1]["status"], requests[250:])
        assert set(answers) == {"scheduled"}
    due = {each["id"]: moment for each in requests}

    def all_there():
        late = lateness_s(mailbox, due)
        return all(late.values()) and late

    late = eventually(all_there, 60, 0.5)
    assert {len(each) for each in late.values()} == {1}
    ordered = sorted(seconds for [seconds] in late.values())
    assert ordered[0] >= 0
    assert ordered[int(len(ordered) * 0.99) - 1] <= LATENESS_S_MAX, ordered[-10:]


def test_restarts_of_everything_across_the_due_time_cost_time_and_nothing_else(relevo, servers, mailbox):
    moment = at(6)
    requests = [a_request(scheduled_for=moment.isoformat()) for _ in range(20)]
    expiring = [a_request(scheduled_for=at(600).isoformat(), expires_at=at(601).isoformat()) for _ in range(2)]
    # Known to the ledger before the crash, for one door at least; the other may be anywhere on the way.
    for each in requests[:10] + expiring:
        assert relevo.post("/api/notify/", each)[0] == 202
    relevo.produce(requests[10:])
    for service in relevo.services:
        service.kill()
    for server in ("kafka", "postgres", "redis"):
        servers.kill(server)
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
    servers.start_all()
    relevo.start()
    ids = [each["id"] for each in requests]
    for identity in ids:
        relevo.wait_for(identity, "sent", 60)
    for late in lateness_s(mailbox, dict.fromkeys(ids, moment)).values():
        assert len(late) == 1
        assert late[0] >= 0
    for each in expiring:
        assert relevo.status(each["id"])["status"] == "scheduled"
        assert call(relevo, "DELETE", each["id"])[0] == 200
    # A record that was read again says as its first result what it said before.
    ends = {each: [status for status in statuses if status == "sent"] for each, statuses in told(relevo, ids).items()}
    assert set(map(len, ends.values())) == {1}


def test_whoever_calls_off_and_is_told_so_gets_no_mail_and_everybody_else_one(relevo, mailbox):
    """Many calls race the moment at which all are due."""
    moment = at(4)
    ids = [relevo.notify(scheduled_for=moment.isoformat()) for _ in range(120)]
    first_s = (moment - datetime.now(UTC)).total_seconds()

    def call_off(number):
        # From just before they are due until most are sent, and some when they are.
        time.sleep(max(0.0, first_s - 0.3 + number * 0.02))
        if number % 20 == 19:
            relevo.wait_for(ids[number], "sent")
        return call(relevo, "DELETE", ids[number])

    with ThreadPoolExecutor(len(ids)) as clients:
        answers = list(clients.map(call_off, range(len(ids))))
    cancelled = {identity for identity, (status, _) in zip(ids, answers, strict=True) if status == 200}
    refused = {identity for identity, (status, _) in zip(ids, answers, strict=True) if status == 409}
    assert cancelled | refused == set(ids)
    assert cancelled, "some came early enough"
    assert refused >= set(ids[19::20])
    for identity in refused:
        relevo.wait_for(identity, "sent")
    for _, document in answers:
        if document["status"] == 409:
            assert document["code"] == "not_cancellable"
            assert document["errors"][0]["code"] in {"is_sending", "is_sent"}
        else:
            assert (document["status"], document["terminal"]) == ("cancelled", True)
            assert document["timeline"][-1]["step"] == "cancelled"
    eventually(
        lambda: (
            told(relevo, ids) == {each: ["scheduled", "cancelled" if each in cancelled else "sent"] for each in ids}
        ),
        20,
        0.5,
    )
    counts = mailbox.counts()
    assert {each: counts.get(each, 0) for each in ids} == {each: int(each in refused) for each in ids}


def test_what_was_called_off_stays_so_and_answers_alike(relevo, mailbox):
    identity = relevo.notify(scheduled_for=at(600).isoformat())
    first = call(relevo, "DELETE", identity)
    assert first[0] == 200
    # Its record may have come to Kafka in between, which is one more step.
    status, again = call(relevo, "DELETE", identity)
    assert (status, again["status"], again["finished_at"]) == (200, "cancelled", first[1]["finished_at"])
    status, problem = call(relevo, "PATCH", identity, {"scheduled_for": None})
    assert (status, problem["code"]) == (409, "not_reschedulable")
    assert problem["errors"][0]["code"] == "is_cancelled"
    assert identity not in mailbox.counts()


def test_it_is_put_off_and_brought_forward_until_it_is_sent(relevo, mailbox):
    identity = relevo.notify(scheduled_for=at(600).isoformat())
    later = at(900)
    status, document = call(relevo, "PATCH", identity, {"scheduled_for": later.isoformat()})
    assert (status, document["status"], datetime.fromisoformat(document["scheduled_for"])) == (200, "scheduled", later)
    soon = at(2)
    assert call(relevo, "PATCH", identity, {"scheduled_for": soon.isoformat()})[0] == 200
    found = relevo.wait_for(identity, "sent")
    [late] = lateness_s(mailbox, {identity: soon})[identity]
    assert 0 <= late <= LATENESS_S_MAX
    assert [step["step"] for step in found["timeline"] if "attempt" in step] == ["scheduled", "scheduled", "sent"]
    eventually(lambda: told(relevo, [identity]) == {identity: ["scheduled", "scheduled", "scheduled", "sent"]})
    status, problem = call(relevo, "PATCH", identity, {"scheduled_for": None})
    assert (status, problem["errors"][0]["code"]) == (409, "is_sent")
    by_kafka = a_request(scheduled_for=at(600).isoformat())
    relevo.produce(by_kafka)
    relevo.wait_for(by_kafka["id"], "scheduled")
    assert call(relevo, "PATCH", by_kafka["id"], {"scheduled_for": None})[0] == 200
    relevo.wait_for(by_kafka["id"], "sent")


def test_a_wrong_time_is_named_and_changes_nothing(relevo):
    identity = relevo.notify(scheduled_for=at(600).isoformat(), expires_at=at(1200).isoformat())
    for body, pointer, code in (
        ({}, "/scheduled_for", "required"),
        ({"scheduled_for": "soon"}, "/scheduled_for", "invalid_time"),
        ({"scheduled_for": "2026-12-24T09:00:00", "time_zone": "Nowhere"}, "/time_zone", "unknown_time_zone"),
        ({"scheduled_for": at(366 * 86_400).isoformat()}, "/scheduled_for", "too_far"),
        ({"scheduled_for": at(1800).isoformat()}, "/scheduled_for", "not_before_expiry"),
        ({"scheduled_for": None, "at": 1}, "/at", "unknown_field"),
    ):
        status, problem = call(relevo, "PATCH", identity, body)
        assert status == 422
        assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [(pointer, code)]
    assert call(relevo, "DELETE", identity)[1]["status"] == "cancelled"
    for method, body in (("DELETE", None), ("PATCH", {"scheduled_for": None})):
        assert call(relevo, method, str(uuid4()), body)[0] == 404


def test_what_runs_out_of_time_while_the_relay_is_away_ends_then_and_is_never_sent(relevo, mailbox):
    mailbox.kill()
    try:
        expires_at = at(4)
        ids = [relevo.notify(expires_at=expires_at.isoformat())]
        ids.append(relevo.notify(scheduled_for=at(2).isoformat(), expires_at=expires_at.isoformat()))
        by_kafka = a_request(expires_at=expires_at.isoformat())
        relevo.produce(by_kafka)
        ids.append(by_kafka["id"])
        for identity in ids:
            found = relevo.wait_for(identity, "expired")
            assert found["reason"] == {"class": "called_off", "code": "expired", "smtp": None}
            assert datetime.fromisoformat(found["finished_at"]) >= expires_at
        late = a_request(expires_at=at(-5).isoformat())
        relevo.produce(late)
        ids.append(late["id"])
        relevo.wait_for(late["id"], "expired")
    finally:
        mailbox.start()
    eventually(lambda: all(statuses[-1:] == ["expired"] for statuses in told(relevo, ids).values()))
    assert not mailbox.counts().keys() & set(ids)
    assert {statuses.count("expired") for statuses in told(relevo, ids).values()} == {1}


def test_a_repeat_is_recognised_however_the_schedule_went(relevo, servers, mailbox):
    request = a_request(scheduled_for=at(1).isoformat(), expires_at=at(3).isoformat())
    first = relevo.post("/api/notify/", request)
    assert first[0] == 202
    relevo.wait_for(request["id"], "sent")
    time.sleep(max(0.0, (datetime.fromisoformat(request["expires_at"]) - datetime.now(UTC)).total_seconds()))
    status, again, headers = relevo.post("/api/notify/", request)
    assert (status, again) == (202, first[1])
    assert headers["idempotency-replayed"] == "true"
    relevo.produce(request)
    status, problem, _ = relevo.post("/api/notify/", request | {"body": "other"})
    assert (status, problem["code"]) == (409, "idempotency_conflict")
    status, problem, _ = relevo.post("/api/notify/", request | {"id": str(uuid4())})
    assert (status, problem["errors"][0]["code"]) == (422, "already_expired")
    through = relevo.notify()
    relevo.wait_for(through, "sent")
    assert mailbox.counts()[request["id"]] == 1
