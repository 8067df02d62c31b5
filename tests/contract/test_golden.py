"""
Golden records: what each version wrote is read by this one, and says the same.

tests/golden/VERSION/TOPIC/*.json are frozen: key, headers and value as that version wrote them, and what it meant by
them. They are never changed; a new version adds a folder.
"""

import hashlib
import json
from uuid import UUID

import pytest

from schemas.identity import fingerprint, rejection_event_id, result_event_id
from schemas.messages import Content, Notification, Source
from schemas.records import decode_deduplicated, read_requested
from tests.contract.schema import validator_of
from tests.processes import ROOT

GOLDEN = ROOT / "tests" / "golden"

# By file, the first 16 digits of its SHA-256. A record that is changed or removed fails here; a new one is added.
SUMS: dict[str, str] = {
    "0.1.0/deduplicated/full.json": "f4f4397ea9154e07",
    "0.1.0/deduplicated/no_trace.json": "437e48c0ff0800ce",
    "0.1.0/deduplicated/plain.json": "b4672a6ccb4eaf4a",
    "0.1.0/requested/array.json": "22423d02324d92df",
    "0.1.0/requested/lone.json": "857c693b20a62497",
    "0.1.0/results/bounced.json": "2a82c76f6ff56ef9",
    "0.1.0/results/conflict.json": "79907fc5770d4fca",
    "0.1.0/results/failed.json": "ff67945b1ab8bce6",
    "0.1.0/results/in_doubt.json": "6f1d42a93f50e72f",
    "0.1.0/results/queued.json": "3eb9472c75be31b3",
    "0.1.0/results/rejected.json": "ebfd996de92af06e",
    "0.1.0/results/rejected_item.json": "3f7130e548b67fa1",
    "0.1.0/results/retrying.json": "a5730c83f5714751",
    "0.1.0/results/sent.json": "1778863ba131896c",
    "0.2.0/deduplicated/full.json": "1921de4a6937f9ea",
    "0.2.0/deduplicated/no_trace.json": "e06d5e2f28222eb1",
    "0.2.0/deduplicated/plain.json": "4f20d66ecc34da51",
    "0.2.0/requested/array.json": "1a10974880e0a72d",
    "0.2.0/requested/cloud_event.json": "3c63c5f75a935af1",
    "0.2.0/requested/lone.json": "e2864c11c8df4730",
    "0.2.0/results/bounced.json": "d2f39d641058c846",
    "0.2.0/results/cancelled.json": "d3479e5f180fdba6",
    "0.2.0/results/conflict.json": "8dbafe139ef35b0c",
    "0.2.0/results/expired.json": "1ecda3e45d597e0a",
    "0.2.0/results/failed.json": "69fdf0cb3ded1eb3",
    "0.2.0/results/in_doubt.json": "e6ba1085e1128fbf",
    "0.2.0/results/queued.json": "ba18b7ff87ea1338",
    "0.2.0/results/rejected.json": "b4db152ddb37077d",
    "0.2.0/results/rejected_item.json": "54accc3f088d7e1b",
    "0.2.0/results/replayed.json": "90fd43575c8c3140",
    "0.2.0/results/rescheduled.json": "579f0cdd69e80525",
    "0.2.0/results/retrying.json": "f8322e66d9d705b2",
    "0.2.0/results/scheduled.json": "81d499b86801dc7f",
    "0.2.0/results/sent.json": "8bfb70827f9c014e",
    "0.2.0/results/suppressed.json": "4b2e1d84731c26d0",
}


def goldens(topic):
    return [each for each in sorted(SUMS) if each.split("/")[1] == topic]


def read(name):
    golden = json.loads((GOLDEN / name).read_text(encoding="utf-8"))
    return golden | {
        "value": golden["value"].encode(),
        "headers": [(header, value.encode()) for header, value in golden["headers"]],
    }


def notification_of(decoded):
    replay_of = decoded.get("replay_of")
    return Notification(
        UUID(decoded["id"]),
        Content(**decoded["content"]),
        decoded["traceparent"],
        decoded.get("producer"),
        None if replay_of is None else UUID(replay_of),
    )


def test_no_golden_record_was_changed_or_removed_and_none_is_unlisted():
    found = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in GOLDEN.rglob("*.json")
    }
    assert found == SUMS


def test_each_version_has_golden_records_of_every_topic():
    versions = {name.split("/")[0] for name in SUMS}
    assert {"0.1.0", "0.2.0"} <= versions
    for version in versions:
        assert {name.split("/")[1] for name in SUMS if name.startswith(f"{version}/")} == {
            "requested",
            "deduplicated",
            "results",
        }


@pytest.mark.parametrize("name", goldens("requested"))
def test_a_requested_record_still_means_the_same(name):
    golden = read(name)
    found = read_requested(golden["value"], golden["headers"])
    assert found == [(each["index"], notification_of(each)) for each in golden["decoded"]]
    # What is stored beside its id: another one would make the same request a conflict with itself.
    assert [fingerprint(each.content).hex() for _, each in found] == [each["fingerprint"] for each in golden["decoded"]]


@pytest.mark.parametrize("name", goldens("requested"))
def test_a_requested_record_follows_the_schema(name):
    golden = read(name)
    event = dict(golden["headers"])
    value = json.loads(golden["value"])
    if "ce_id" in event and isinstance(value, dict):
        value = {"id": event["ce_id"].decode()} | value
    validator_of("requested").validate(value)


@pytest.mark.parametrize("name", goldens("deduplicated"))
def test_a_deduplicated_record_still_means_the_same(name):
    golden = read(name)
    decoded = golden["decoded"]
    found = decode_deduplicated(golden["value"], golden["headers"])
    assert found == (notification_of(decoded), Source(**decoded["source"]))
    assert fingerprint(found[0].content).hex() == decoded["fingerprint"]
    assert golden["key"] == decoded["id"]


@pytest.mark.parametrize("name", goldens("results"))
def test_a_result_follows_the_schema_and_folds_with_one_of_today(name):
    golden = read(name)
    result = json.loads(golden["value"])
    validator_of("results").validate(result)
    source = result["source"]
    if result["seq"]:
        event_id = result_event_id(UUID(result["id"]), result["seq"])
    else:
        place = Source(source["door"], source["partition"], source["offset"], source["index"])
        event_id = rejection_event_id(place.coordinates())
    assert result["event_id"] == str(event_id)
    assert golden["key"] == (result["id"] or result["event_id"])
