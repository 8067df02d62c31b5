"""A batch: each item for itself, ids that a repeat finds again, and pointers that say which item."""

import json
import uuid

import pytest

from ingest.accept import Answer, Submission, Verdict
from ingest.batch import Batch, _response, read_batch, submissions_of
from ingest.exchange import Exchange
from schemas.errors import FieldError, InvalidRequestError, TransientError
from schemas.identity import id_in_batch
from schemas.limits import BATCH_BODY_BYTES_MAX, BATCH_ITEMS_MAX
from tests.unit.ingest.fakes import TRACEPARENT

ITEM = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}
SOME_ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"
EARLIER = TRACEPARENT.replace("4bf9", "0000")


def errors_of(given, *keys):
    with pytest.raises(InvalidRequestError) as refused:
        read_batch(given, keys=keys)
    return [(error.pointer, error.code) for error in refused.value.errors]


def ids_of(items, key, client="billing"):
    found = submissions_of(Batch(items, key), client=client, traceparent=TRACEPARENT)
    return [each.first.id if isinstance(each, Submission) else None for each in found]


def answered(*found):
    exchange = Exchange("POST", "/api/notify/batch", "r", None, TRACEPARENT, TRACEPARENT.split("-")[1])
    response = _response(found, exchange)
    return response, json.loads(response.body)


def new(verdict=Verdict.NEW, traceparent=TRACEPARENT):
    return Answer(verdict, uuid.uuid4(), traceparent)


@pytest.mark.parametrize(
    ("given", "errors"),
    [
        ([], [("", "type")]),
        (None, [("", "type")]),
        ({}, [("/items", "required")]),
        ({"items": {}}, [("/items", "type")]),
        ({"items": None}, [("/items", "type")]),
        ({"items": []}, [("/items", "empty")]),
        ({"items": [ITEM] * (BATCH_ITEMS_MAX + 1)}, [("/items", "too_many")]),
        ({"items": [ITEM], "key": 1}, [("/key", "unknown_field")]),
        ({"id": SOME_ID}, [("/id", "unknown_field"), ("/items", "required")]),
    ],
    ids=["array", "null", "nothing", "object", "null items", "empty", "too many", "more", "no items"],
)
def test_what_is_no_batch_is_refused_as_a_whole_with_every_error(given, errors):
    assert errors_of(given) == errors
    assert errors_of(given, "ñ") == [("", "invalid_idempotency_key"), *errors]


def test_a_batch_is_not_looked_into():
    batch = read_batch({"items": [1] * BATCH_ITEMS_MAX}, keys=("a", "a"))
    assert (batch.key, len(batch.items)) == ("a", BATCH_ITEMS_MAX)


def test_an_ordinary_batch_fits_into_a_body():
    ordinary = ITEM | {"id": SOME_ID, "body": "ñ" * 4_000, "metadata": {"order": 1}}
    assert len(json.dumps({"items": [ordinary] * BATCH_ITEMS_MAX}, ensure_ascii=False).encode()) < BATCH_BODY_BYTES_MAX


@pytest.mark.parametrize("key", ["order-1", SOME_ID], ids=["text", "uuid"])
def test_an_item_has_the_id_that_it_names_or_one_from_the_key_and_its_place(key):
    items = [ITEM, ITEM | {"id": SOME_ID}, ITEM]
    ids = ids_of(items, key)
    assert ids == [id_in_batch("billing", key, 0), uuid.UUID(SOME_ID), id_in_batch("billing", key, 2)]
    assert ids_of(items, key) == ids
    assert ids_of([*items, ITEM], key)[:3] == ids_of([items[0], {}, items[2]], key)[:1] + ids[1:]
    assert not set(ids_of(items, key, client="shop")) & {ids[0], ids[2]}


def test_without_a_key_each_item_gets_a_new_id():
    assert len({*ids_of([ITEM] * 3, None), *ids_of([ITEM] * 3, None)}) == 6


def test_an_item_may_not_name_an_id_that_was_made_from_a_key():
    stolen = str(id_in_batch("shop", "order-1", 0))
    (found,) = submissions_of(Batch([ITEM | {"id": stolen}], "order-1"), client="billing", traceparent=TRACEPARENT)
    assert [(error.pointer, error.code) for error in found.errors] == [("/id", "reserved_id")]


def test_one_bad_item_fails_alone_and_says_which_it_is():
    given = [ITEM, ITEM | {"to": "nobody"}, 7, ITEM]
    found = submissions_of(Batch(given, "k"), client="billing", traceparent=TRACEPARENT)
    assert [isinstance(each, Submission) for each in found] == [True, False, False, True]
    response, document = answered(new(), *found[1:3], new(Verdict.CONFLICT), new(Verdict.REPLAYED, EARLIER))
    assert (response.status, document["accepted"], document["refused"]) == (207, 2, 3)
    first, bad, no_object, conflict, replayed = document["items"]
    assert (first["status"], first["replayed"], first["trace_id"]) == ("queued", False, TRACEPARENT.split("-")[1])
    assert first["links"] == {"self": f"/api/notifications/{first['id']}"}
    assert bad["error"]["code"] == "invalid_request"
    assert bad["error"]["status"] == 422
    assert [error["pointer"] for error in bad["error"]["errors"]] == ["/items/1/to"]
    assert [error["pointer"] for error in no_object["error"]["errors"]] == ["/items/2"]
    assert (conflict["error"]["code"], conflict["error"]["errors"]) == ("idempotency_conflict", [])
    assert (replayed["replayed"], replayed["trace_id"]) == (True, EARLIER.split("-")[1])
    assert "Idempotency-Replayed" not in response.headers, "the first one is new"


def test_all_that_was_there_before_is_a_replay_of_the_whole():
    response, _ = answered(new(Verdict.REPLAYED), new(Verdict.REPLAYED))
    assert (response.status, response.headers["Idempotency-Replayed"]) == (202, "true")
    bad = InvalidRequestError("invalid_request", [FieldError("/to", "required", "is required")])
    response, _ = answered(new(Verdict.REPLAYED), bad)
    assert (response.status, response.headers["Idempotency-Replayed"]) == (207, "true")
    response, document = answered(bad)
    assert (response.status, document["accepted"]) == (207, 0)
    assert "Idempotency-Replayed" not in response.headers


def test_what_could_not_be_stored_says_so_and_when_to_come_back():
    response, document = answered(new(), TransientError("away"))
    assert (response.status, document["items"][1]["error"]["code"]) == (207, "unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_where_nothing_could_be_stored_the_whole_is_a_503():
    bad = InvalidRequestError("invalid_request", [FieldError("/to", "required", "is required")])
    with pytest.raises(TransientError):
        answered(TransientError("away"), bad)
