"""What a producer may rely on: a forecast that comes true, rejections that find their way back, CloudEvents."""

import json
import random
import urllib.request
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from schemas.topics import DEAD_LETTERS, REQUESTED, RESULTS
from tests.fuzzed import fuzzed_headers, fuzzed_value
from tests.processes import eventually
from tests.relevo import address

SEED = 20261124
RECORDS = 1000


def forecast(relevo, value, headers):
    """What POST /api/validate says of a record: by index, None when it is taken, otherwise why not."""
    named = {name.replace("ce_", "ce-", 1): text.encode().decode("latin-1") for name, text in headers}
    request = urllib.request.Request(
        f"{relevo.url}/api/validate", value, {"Content-Type": "application/octet-stream"} | named, method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        items = json.loads(answer.read())["items"]
    assert [each["index"] for each in items] == list(range(len(items)))
    return {
        each["index"]: None if each["verdict"] == "accepted" else (each["id"], each["code"], each["errors"])
        for each in items
    }


def produce_all(relevo, records):
    """Produce *records* (value, headers); for each, in order, where it stands."""
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    placed = {}

    def told_of(number):
        def reported(error, record):
            assert error is None, error
            placed[number] = record.partition(), record.offset()

        return reported

    for number, (value, headers) in enumerate(records):
        producer.produce(REQUESTED.name, value, headers=headers, on_delivery=told_of(number))
        producer.poll(0)
    assert producer.flush(60) == 0
    return [placed[number] for number in range(len(records))]


def what_the_stream_said(relevo, places):
    """By coordinates: None when it was taken, otherwise why not."""
    wanted = set(places)
    said = {}
    for record in relevo.records(RESULTS.name):
        result = json.loads(record.value())
        source = result["source"]
        at = (source["partition"], source["offset"])
        if at in wanted and source["door"] == "kafka" and result["seq"] <= 1:
            why = (result["id"], result["reason"]["code"], result["errors"]) if result["status"] == "rejected" else None
            if why is None:
                assert result["status"] in {"queued", "scheduled"}
            said[*at, source["index"]] = why
    return said


@pytest.mark.timeout(300)
def test_the_forecast_and_the_stream_agree_on_a_thousand_fuzzed_records(relevo):
    rng = random.Random(SEED)
    records = [(fuzzed_value(rng), fuzzed_headers(rng)) for _ in range(RECORDS)]
    forecasts = [forecast(relevo, value, headers) for value, headers in records]
    places = produce_all(relevo, records)
    expected = {
        (*place, index): verdict
        for place, by_index in zip(places, forecasts, strict=True)
        for index, verdict in by_index.items()
    }
    taken = sum(verdict is None for verdict in expected.values())
    assert taken > RECORDS / 4, "enough of both"
    assert len(expected) - taken > RECORDS / 4

    def all_said():
        said = what_the_stream_said(relevo, places)
        assert len(said) >= len(expected), f"{len(said)} of {len(expected)}"
        return said

    assert eventually(all_said, 90, 1.0) == expected


def test_a_rejection_names_partition_offset_index_code_and_pointers_and_leaves_a_dead_letter(relevo):
    good, bad = str(uuid4()), str(uuid4())
    items = [
        {"id": good, "to": address(), "subject": "s", "body": "b"},
        {"id": bad, "to": "nobody", "subject": "a\nb", "producer": "billing"},
        {"id": "7"},
    ]
    raw = json.dumps(items).encode()
    [(partition, offset)] = produce_all(relevo, [(raw, [])])
    first, second = eventually(lambda: len(found := relevo.rejections_at(partition, offset)) == 2 and found)
    by_index = {each["source"]["index"]: each for each in (first, second)}
    assert by_index[1]["source"] == {
        "door": "kafka",
        "topic": REQUESTED.name,
        "partition": partition,
        "offset": offset,
        "index": 1,
    }
    assert (by_index[1]["id"], by_index[1]["producer"], by_index[1]["terminal"]) == (bad, "billing", True)
    assert by_index[1]["reason"] == {"class": "invalid", "code": "invalid_request", "smtp": None}
    told = {(each["pointer"], each["code"]) for each in by_index[1]["errors"]}
    assert told == {("/to", "invalid_address"), ("/subject", "control_character"), ("/body", "required")}
    assert by_index[2]["id"] is None
    assert {each["pointer"] for each in by_index[2]["errors"]} == {"/id", "/to", "/subject", "/body"}
    relevo.wait_for(good, "sent")
    letters = [
        letter
        for letter in relevo.records(DEAD_LETTERS.name)
        if dict(letter.headers())["dlq-original-offset"] == str(offset).encode()
        and dict(letter.headers())["dlq-original-partition"] == str(partition).encode()
    ]
    assert [letter.value() for letter in letters] == [raw]


def test_an_event_comes_in_and_its_results_are_events(relevo):
    identity, to = str(uuid4()), address()
    headers = [
        *(("ce_specversion", "1.0"), ("ce_id", identity), ("ce_source", "/billing/invoices"), ("ce_type", "due")),
        *(("content-type", "application/json"), ("ce_traceparent", f"00-{uuid4().hex}-{'1' * 16}-01")),
    ]
    trace_id = headers[-1][1].split("-")[1]
    relevo.produce({"to": to, "subject": "s", "body": "b"}, headers=headers)
    relevo.wait_for(identity, "sent")
    assert len(relevo.mailbox.messages(to=to)) == 1

    def both():
        found = [record for record in relevo.records(RESULTS.name) if record.key() == identity.encode()]
        assert len(found) >= 2
        return found

    for record in eventually(both):
        result = json.loads(record.value())
        attributes = {name: value.decode() for name, value in record.headers()}
        assert (result["producer"], result["trace_id"]) == ("/billing/invoices", trace_id)
        assert attributes["ce_specversion"] == "1.0"
        assert attributes["ce_id"] == result["event_id"]
        assert attributes["ce_type"] == f"relevo.notification.{result['status']}"
        assert attributes["ce_subject"] == identity
        assert attributes["ce_time"] == result["occurred_at"]


def test_an_event_of_an_unknown_version_is_rejected_as_a_whole(relevo):
    at = relevo.produce(
        {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"}, headers=[("ce_specversion", "2.0")]
    )
    [rejected] = eventually(lambda: relevo.rejections_at(*at))
    assert [(each["pointer"], each["code"]) for each in rejected["errors"]] == [("", "unknown_version")]
