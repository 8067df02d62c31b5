"""The whole path from outside: a request at either door, a mail in the sink, the outcome where it is told."""

import json
import re
import time
from itertools import pairwise
from uuid import uuid4

import pytest
from redis import Redis

from tests.processes import eventually, get_json
from tests.relevo import address

CONTACT = b'{"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un bill\xc3\xb3n de notificaciones."}'
NOTIFY = (
    b'{"to": "receiver@example.com", "subject": "Alerta de Sistema", '
    b'"body": "Se ha detectado una actividad inusual en el puerto 8000."}'
)


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_contact_message_reaches_the_configured_recipient_and_the_visitor_only_as_reply_to(relevo, slash):
    status, answer, _ = relevo.post("/api/contact" + slash, CONTACT)
    assert status == 202
    assert answer["status"] == "queued"
    assert answer["message"] == "Mensaje de contacto recibido y encolado para notificación."
    relevo.wait_for(answer["id"], "sent")
    [mail] = relevo.mailbox.messages(notification_id=answer["id"])
    assert mail["rcpt_to"] == ["contact@example.org"]
    shown = relevo.mailbox.message(mail["n"])
    headers = {name.lower(): value for name, value in shown["headers"]}
    assert headers["reply-to"] == "elon@xcorp.com"
    assert headers["from"] == "relevo@example.org"
    assert "Necesito un billón de notificaciones." in shown["text"]
    assert "Elon Musk" in shown["text"]
    assert relevo.mailbox.messages(to="elon@xcorp.com") == [], "no backscatter to whoever is named in a form"


@pytest.mark.parametrize("slash", ["/", ""])
def test_a_notification_over_http_becomes_one_mail_and_its_outcome_stands_in_both_places(relevo, slash):
    status, answer, headers = relevo.post("/api/notify" + slash, NOTIFY)
    assert (status, answer["status"]) == (202, "queued")
    assert headers["location"] == answer["links"]["self"] == f"/api/notifications/{answer['id']}"
    assert re.fullmatch("[0-9a-f]{32}", answer["trace_id"])
    relevo.wait_for(answer["id"], "sent")

    def all_told():
        # The mail may be out before ingest has noted that its record is.
        told = relevo.status(answer["id"])
        assert [step["step"] for step in told["timeline"]] == ["accepted", "published", "deduplicated", "sent"]
        return told

    told = eventually(all_told)
    assert told["timeline"][-1]["smtp"].startswith("250")
    assert relevo.mailbox.counts()[answer["id"]] == 1
    queued, sent = eventually(lambda: len(found := relevo.results(answer["id"])) == 2 and found)
    assert (queued["status"], queued["seq"], queued["terminal"]) == ("queued", 1, False)
    assert (sent["status"], sent["seq"], sent["terminal"]) == ("sent", 2, True)
    assert sent["source"] == queued["source"]
    assert sent["source"]["door"] == "http"
    assert sent["trace_id"] == answer["trace_id"]
    assert sent["reason"]["class"] == "accepted"
    assert sent["attempt"] == 1


def test_health_names_each_server(relevo):
    for path in ("/healthz", "/healthz/"):
        status, answer = get_json(relevo.url + path)
        assert status == 200
        assert (answer["postgres"], answer["redis"], answer["kafka"]) == (True, True, True)


def test_a_plain_kafka_record_becomes_a_mail(relevo):
    identity, to = str(uuid4()), address()
    relevo.produce({"id": identity, "to": to, "subject": "s", "body": "b"}, key=identity.encode())
    told = relevo.wait_for(identity, "sent")
    assert told["door"] == "kafka"
    [mail] = relevo.mailbox.messages(to=to)
    assert mail["message_id"] == f"<{identity}@example.org>"


def test_an_array_of_five_hundred_becomes_five_hundred_mails(relevo):
    items = [{"id": str(uuid4()), "to": address(), "subject": f"{n}", "body": "b"} for n in range(500)]
    relevo.produce(items)
    wanted = {item["id"] for item in items}
    eventually(lambda: wanted <= relevo.mailbox.counts().keys(), 60)
    counts = relevo.mailbox.counts()
    assert {counts[each] for each in wanted} == {1}


@pytest.mark.parametrize("doors", ["http then kafka", "kafka then http", "kafka then kafka", "http then http"])
@pytest.mark.parametrize("flushed", [False, True], ids=["", "Redis emptied between"])
def test_the_same_id_by_any_door_in_any_order_is_one_mail(relevo, servers, doors, flushed):
    identity = str(uuid4())
    request = {"id": identity, "to": address(), "subject": "s", "body": "b"}

    def offer(door):
        if door == "http":
            status, answer, headers = relevo.post("/api/notify/", request)
            assert (status, answer["id"]) == (202, identity)
            return headers.get("idempotency-replayed")
        relevo.produce(request)
        return None

    first, second = doors.split(" then ")
    offer(first)
    relevo.wait_for(identity, "sent")
    if flushed:
        Redis.from_url(servers.redis_url).flushall()
    replayed = offer(second)
    if second == "http":
        assert replayed == "true"
    # Another id behind it on every partition: when these are through, so is the copy.
    behind = [str(uuid4()) for _ in range(12)]
    for each in behind:
        relevo.produce({"id": each, "to": address(), "subject": "s", "body": "b"})
    for each in behind:
        relevo.wait_for(each, "sent")
    assert relevo.mailbox.counts()[identity] == 1
    assert [each["status"] for each in relevo.results(identity) if each["terminal"]] == ["sent"]


@pytest.mark.parametrize("flushed", [False, True], ids=["", "Redis emptied between"])
def test_a_known_id_with_other_content_is_rejected_and_the_first_untouched(relevo, servers, flushed):
    identity, to = str(uuid4()), address()
    relevo.notify(id=identity, to=to)
    relevo.wait_for(identity, "sent")
    if flushed:
        Redis.from_url(servers.redis_url).flushall()
    at = relevo.produce({"id": identity, "to": to, "subject": "other", "body": "b"})
    [rejected] = eventually(lambda: relevo.rejections_at(*at))
    assert (rejected["id"], rejected["reason"]["code"]) == (identity, "idempotency_conflict")
    status, problem, _ = relevo.post("/api/notify/", {"id": identity, "to": to, "subject": "third", "body": "b"})
    assert (status, problem["code"]) == (409, "idempotency_conflict")
    assert relevo.mailbox.counts()[identity] == 1
    assert relevo.status(identity)["status"] == "sent"


def test_what_cannot_be_read_is_a_dead_letter_and_its_neighbours_go_on(relevo):
    good = [str(uuid4()) for _ in range(3)]
    requests = [{"id": each, "to": address(), "subject": "s", "body": "b"} for each in good]
    lonely_at = relevo.produce(b"\xff\x00not json", key=b"\x00k", headers=[("h", b"\xfe")])
    raw = json.dumps([requests[0], {"id": "x", "to": "a@b.cc,d@e.ff"}, requests[1]]).encode()
    array_at = relevo.produce(raw)
    relevo.produce(requests[2])
    for each in good:
        relevo.wait_for(each, "sent")
    [lonely] = eventually(lambda: relevo.rejections_at(*lonely_at))
    assert (lonely["id"], lonely["terminal"], lonely["errors"][0]["code"]) == (None, True, "encoding")
    [item] = eventually(lambda: relevo.rejections_at(*array_at))
    assert item["source"]["index"] == 1
    assert {error["pointer"] for error in item["errors"]} == {"/id", "/to", "/subject", "/body"}
    letters = {letter.value(): letter for letter in relevo.dead_letters()}
    letter = letters[b"\xff\x00not json"]
    assert letter.key() == b"\x00k"
    headers = dict(letter.headers())
    assert headers["h"] == b"\xfe"
    assert headers["dlq-original-topic"] == b"notifications.requested"
    assert (int(headers["dlq-original-partition"]), int(headers["dlq-original-offset"])) == lonely_at
    assert letters[raw].key() is None


def test_passing_refusals_are_tried_again_five_seconds_apart_and_bounce_never(relevo):
    retried = relevo.notify(address("451x2"))
    bounced = relevo.notify(address("550"))
    failed = relevo.notify(address("451"))  # goes on to the outer ladder, a minute later
    told = relevo.wait_for(bounced, "bounced")
    assert told["attempt"] == 1
    told = relevo.wait_for(retried, "sent", 30)
    assert told["attempt"] == 3
    at = [_seconds(step["at"]) for step in told["timeline"] if step["step"] in {"retrying", "sent"}]
    assert all(4 <= later - earlier <= 6 for earlier, later in pairwise(at)), at

    def past_the_burst():
        found = relevo.status(failed)
        assert found["attempt"] == 4, found
        return found

    told = eventually(past_the_burst, 30)
    assert told["status"] == "retrying"
    assert 50 <= _seconds(told["next_attempt_at"]) - _seconds(told["timeline"][-1]["at"]) <= 70
    states = eventually(lambda: len(found := relevo.results(retried)) == 4 and [each["status"] for each in found])
    assert states == ["queued", "retrying", "retrying", "sent"]
    eventually(lambda: [each["attempt"] for each in relevo.results(failed)] == [0, 1, 2, 3, 4])


def test_a_slow_id_does_not_hold_up_others(relevo):
    slow = [relevo.notify(address("slowdot5")) for _ in range(3)]
    begun = time.monotonic()
    quick = [relevo.notify() for _ in range(50)]
    for each in quick:
        relevo.wait_for(each, "sent")
    assert time.monotonic() - begun < 4, "fifty quick ones waited for a slow one"
    for each in slow:
        relevo.wait_for(each, "sent")


def test_silence_after_the_message_ends_in_doubt_with_at_most_one_mail(relevo):
    taken = relevo.notify(address("dropdot"))
    told = relevo.wait_for(taken, "in_doubt")
    assert told["attempt"] == 1
    assert relevo.mailbox.counts()[taken] == 1
    [terminal] = eventually(lambda: [each for each in relevo.results(taken) if each["terminal"]])
    assert (terminal["status"], terminal["reason"]["class"]) == ("in_doubt", "unknown")


def test_a_reader_from_offset_zero_can_rebuild_every_state(relevo):
    ids = {relevo.notify(): "sent", relevo.notify(address("550")): "bounced"}
    for each, state in ids.items():
        relevo.wait_for(each, state)

    def rebuilt():
        latest = {}
        for each in relevo.results():
            latest[each["id"]] = each["status"]
        assert {each: latest.get(each) for each in ids} == ids
        return latest

    latest = eventually(rebuilt)
    for each, state in latest.items():
        if each is not None and state != "rejected":
            assert relevo.status(each)["status"] == state


def test_logs_and_results_hold_no_address_subject_or_body(relevo):
    canary = f"canary{uuid4().hex}"
    sent = relevo.notify(f"{canary}@example.org", subject=f"{canary} s", body=f"{canary} b", html=f"<p>{canary}</p>")
    bounced = relevo.notify(f"{canary}+550@example.org")
    bad_at = relevo.produce({"id": str(uuid4()), "to": f"{canary}@x@y", "subject": canary, "body": canary, canary: 1})
    relevo.post("/api/notify/", {"to": f"{canary}@x@y", "subject": f"{canary}\r\nBcc: {canary}@x.yz", "body": ""})
    relevo.post("/api/contact/", {"name": canary, "email": f"{canary}@example.org", "message": canary})
    relevo.wait_for(sent, "sent")
    relevo.wait_for(bounced, "bounced")
    eventually(lambda: relevo.rejections_at(*bad_at))
    for service in relevo.services:
        assert canary not in service.log.read_text(), service.module
    for record in relevo.records("notifications.results"):
        assert canary.encode() not in record.value()
    assert canary not in json.dumps(relevo.status(bounced))


def test_each_request_is_logged_at_entry_and_exit_with_its_ids(relevo):
    identity = relevo.notify()
    answered = eventually(
        lambda: [each for each in relevo.ingest.events("request_answered") if each.get("notification_id") == identity]
    )
    [line] = [each for each in answered if each["method"] == "POST"]
    assert line["status"] == 202
    assert line["duration_ms"] >= 0
    assert [each for each in relevo.ingest.events("request_received") if each["trace_id"] == line["trace_id"]]


def _seconds(text):
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()
