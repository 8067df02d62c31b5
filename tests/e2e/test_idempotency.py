"""One key, one mail: at both doors, many at once, and after everything but the ledger has forgotten."""

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from redis import Redis

from tests.processes import eventually
from tests.relevo import address

pytestmark = pytest.mark.timeout(180)


def request(**fields):
    return {"to": address(), "subject": "Alerta", "body": "Se ha detectado."} | fields


def behind(relevo):
    """Return once everything that was on the topic before is through: others, behind it on every partition, are."""
    others = [str(uuid4()) for _ in range(12)]
    for each in others:
        relevo.produce(request(id=each))
    for each in others:
        relevo.wait_for(each, "sent", 40)


def one_mail_and_one_end(relevo, identity):
    assert relevo.mailbox.counts()[identity] == 1
    assert [each["status"] for each in relevo.results(identity) if each["terminal"]] == ["sent"]


def test_a_hundred_at_once_with_one_key_are_one_mail_and_equal_answers(relevo):
    wanted, key = request(), f"order-{uuid4()}"
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: relevo.post("/api/notify/", wanted, Idempotency_Key=key), range(100)))
    assert {status for status, _, _ in answers} == {202}
    assert len({json.dumps(body) for _, body, _ in answers}) == 1, "the id, and the trace of the first"
    assert sum("idempotency-replayed" not in headers for _, _, headers in answers) == 1
    identity = answers[0][1]["id"]
    relevo.wait_for(identity, "sent")
    status, problem, _ = relevo.post("/api/notify/", wanted | {"body": "Otra."}, Idempotency_Key=key)
    assert (status, problem["code"]) == (409, "idempotency_conflict")
    behind(relevo)
    one_mail_and_one_end(relevo, identity)
    assert relevo.results(identity)[-1]["trace_id"] == answers[0][1]["trace_id"]


@pytest.mark.parametrize("first", ["http", "kafka"])
def test_a_uuid_as_key_is_the_id_of_the_record(relevo, first):
    identity = str(uuid4())
    wanted = request()

    def by_http():
        status, answer, headers = relevo.post("/api/notify/", wanted, Idempotency_Key=identity)
        assert (status, answer["id"]) == (202, identity)
        return headers.get("idempotency-replayed")

    if first == "http":
        assert by_http() is None
        relevo.produce(wanted | {"id": identity})
    else:
        relevo.produce(wanted | {"id": identity})
        relevo.wait_for(identity, "sent")
        assert by_http() == "true"
    relevo.wait_for(identity, "sent")
    behind(relevo)
    one_mail_and_one_end(relevo, identity)


def test_the_id_of_a_text_key_is_the_same_one_at_the_other_door(relevo):
    wanted, key = request(), f"order-{uuid4()}"
    _, answer, _ = relevo.post("/api/notify/", wanted, Idempotency_Key=key)
    relevo.produce(wanted | {"id": answer["id"]})
    at = relevo.produce(wanted | {"id": answer["id"], "body": "Otra."})
    [rejected] = eventually(lambda: relevo.rejections_at(*at))
    assert rejected["reason"]["code"] == "idempotency_conflict"
    behind(relevo)
    one_mail_and_one_end(relevo, answer["id"])


def test_of_an_array_only_the_item_in_conflict_is_rejected_with_its_place_and_a_dead_letter(relevo):
    known = request(id=str(uuid4()))
    relevo.notify(**known)
    relevo.wait_for(known["id"], "sent")
    good = [request(id=str(uuid4())) for _ in range(2)]
    raw = json.dumps([good[0], known | {"body": "Otra."}, good[1]]).encode()
    partition, offset = relevo.produce(raw)
    [rejected] = eventually(lambda: relevo.rejections_at(partition, offset))
    assert (rejected["id"], rejected["source"]["index"]) == (known["id"], 1)
    assert (rejected["reason"]["code"], rejected["reason"]["class"]) == ("idempotency_conflict", "conflict")
    assert (rejected["seq"], rejected["terminal"]) == (0, False), "the id belongs to the first"
    assert [error["pointer"] for error in rejected["errors"]] == ["/id"]
    [letter] = eventually(lambda: [each for each in relevo.dead_letters() if each.value() == raw])
    headers = {name: value.decode() for name, value in letter.headers()}
    assert headers["dlq-reason"] == "idempotency_conflict"
    assert (headers["dlq-original-partition"], headers["dlq-original-offset"]) == (str(partition), str(offset))
    for each in good:
        relevo.wait_for(each["id"], "sent")
        one_mail_and_one_end(relevo, each["id"])
    one_mail_and_one_end(relevo, known["id"])


def test_a_batch_that_is_sent_again_is_a_hundred_mails_once(relevo):
    items, key = [request() for _ in range(100)], f"batch-{uuid4()}"
    first = relevo.post("/api/notify/batch", {"items": items}, Idempotency_Key=key)
    again = relevo.post("/api/notify/batch", {"items": items}, Idempotency_Key=key)
    assert (first[0], again[0], again[2].get("idempotency-replayed")) == (202, 202, "true")
    ids = [item["id"] for item in first[1]["items"]]
    assert [item["id"] for item in again[1]["items"]] == ids
    relevo.produce([item | {"id": each} for item, each in zip(items, ids, strict=True)])
    behind(relevo)
    eventually(lambda: set(ids) <= relevo.mailbox.counts().keys(), 60)
    counts = relevo.mailbox.counts()
    assert {counts[each] for each in ids} == {1}
    assert [relevo.mailbox.messages(notification_id=ids[place])[0]["rcpt_to"] for place in (0, 99)] == [
        [items[0]["to"]],
        [items[99]["to"]],
    ]


def test_after_redis_was_emptied_and_everything_restarted_each_key_is_known_as_before(relevo, servers):
    """The ledger remembers alone; what the table knew is gone, and so is what any process had in memory."""
    key, identity = f"order-{uuid4()}", str(uuid4())
    by_key, by_id, batch = request(), request(id=identity), {"items": [request(), request()]}
    first = relevo.post("/api/notify/", by_key, Idempotency_Key=key)[1]
    relevo.produce(by_id)
    in_batch = relevo.post("/api/notify/batch", batch, Idempotency_Key=key)[1]["items"]
    ids = [first["id"], identity, *(item["id"] for item in in_batch)]
    for each in ids:
        relevo.wait_for(each, "sent", 40)
    relevo.stop()
    Redis.from_url(servers.redis_url).flushall()
    relevo.start()

    status, answer, headers = relevo.post("/api/notify/", by_key, Idempotency_Key=key)
    assert (status, answer, headers["idempotency-replayed"]) == (202, first, "true")
    status, answer, headers = relevo.post("/api/notify/batch", batch, Idempotency_Key=key)
    assert (status, headers["idempotency-replayed"]) == (202, "true")
    assert [item["id"] for item in answer["items"]] == ids[2:]
    assert relevo.post("/api/notify/", by_id)[2]["idempotency-replayed"] == "true"
    for again in (by_key, by_id):
        other = again | {"body": "Otra."}
        status, problem, _ = relevo.post("/api/notify/", other, **({} if "id" in again else {"Idempotency_Key": key}))
        assert (status, problem["code"]) == (409, "idempotency_conflict")
    for each, wanted in zip(ids, (by_key, by_id, *batch["items"]), strict=True):
        relevo.produce(wanted | {"id": each})
        at = relevo.produce(wanted | {"id": each, "subject": "Otra."})
        [rejected] = eventually(lambda at=at: relevo.rejections_at(*at), 30)
        assert (rejected["id"], rejected["reason"]["code"]) == (each, "idempotency_conflict")
    behind(relevo)
    for each in ids:
        one_mail_and_one_end(relevo, each)
