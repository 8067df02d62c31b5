"""CloudEvents in binary mode: what their headers mean on a request, and what they are on a result."""

import json
from datetime import timedelta
from uuid import UUID

import pytest

from schemas import results
from schemas.errors import FieldError
from schemas.messages import Reason, Source
from schemas.records import Rejection, encode_result_record, read_requested, trace_context
from schemas.states import State

ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"
OTHER_ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5f"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
REQUEST = {"to": "receiver@example.org", "subject": "Alerta", "body": "Se ha detectado."}
EVENT = {
    "ce_specversion": "1.0",
    "ce_id": ID,
    "ce_source": "/billing/invoices",
    "ce_type": "invoice.due",
    "ce_time": "2026-11-24T13:00:00Z",
    "content-type": "application/json",
}


def read(value, headers):
    return read_requested(json.dumps(value).encode(), [(name, text.encode()) for name, text in headers.items()])


def only(found):
    ((_, notification),) = found
    return notification


def wrong(found):
    (rejection,) = found
    assert isinstance(rejection, Rejection)
    return rejection


def test_its_id_and_its_source_are_those_of_a_lone_request_that_has_none():
    notification = only(read(REQUEST, EVENT))
    assert (notification.id, notification.producer) == (UUID(ID), "/billing/invoices")


def test_what_the_request_says_of_itself_counts_more():
    notification = only(read(REQUEST | {"id": OTHER_ID, "producer": "billing"}, EVENT))
    assert (notification.id, notification.producer) == (UUID(OTHER_ID), "billing")


def test_without_a_version_it_is_no_event():
    headers = {name: text for name, text in EVENT.items() if name != "ce_specversion"}
    assert wrong(read(REQUEST, headers)).errors == (FieldError("/id", "required", "is required"),)
    assert only(read(REQUEST | {"id": ID}, headers)).producer is None


def test_its_id_is_no_item_of_an_array_but_its_source_is_the_producer_of_all():
    items = [REQUEST | {"id": ID}, REQUEST, REQUEST | {"id": OTHER_ID, "producer": "billing"}]
    first, second, third = read(items, EVENT)
    assert (first[1].id, first[1].producer) == (UUID(ID), "/billing/invoices")
    assert [(each.pointer, each.code) for each in second.errors] == [("/id", "required")]
    assert third[1].producer == "billing"


@pytest.mark.parametrize("identity", ["7", "", "not a uuid", ID.replace("-", "")])
def test_an_event_id_that_is_no_uuid_is_no_id(identity):
    assert [each.code for each in wrong(read(REQUEST, EVENT | {"ce_id": identity})).errors] == ["required"]
    assert only(read(REQUEST | {"id": OTHER_ID}, EVENT | {"ce_id": identity})).id == UUID(OTHER_ID)


@pytest.mark.parametrize("version", ["1.0", "1.0.2", "1.1", "1"])
def test_a_minor_version_of_it_is_read(version):
    assert only(read(REQUEST, EVENT | {"ce_specversion": version})).id == UUID(ID)


@pytest.mark.parametrize("version", ["0.3", "2.0", "10", "", "one", "ñ"])
def test_another_major_version_refuses_the_record_as_a_whole(version):
    found = wrong(read([REQUEST, REQUEST], EVENT | {"ce_specversion": version}))
    assert (found.index, found.id, found.code) == (0, None, "invalid_request")
    assert [(each.pointer, each.code) for each in found.errors] == [("", "unknown_version")]


@pytest.mark.parametrize("source", ["x" * 129, "ñ", "a\nb"])
def test_a_source_that_is_no_name_of_a_producer_is_refused_unless_the_request_has_one(source):
    found = wrong(read(REQUEST, EVENT | {"ce_source": source}))
    assert found.id == UUID(ID), "the producer can tell which one it was"
    assert [(each.pointer, each.code) for each in found.errors] == [("", "invalid_producer")]
    assert "ce_source" in found.errors[0].detail
    assert source not in found.errors[0].detail
    assert only(read(REQUEST | {"producer": "billing"}, EVENT | {"ce_source": source})).producer == "billing"


def test_headers_that_are_no_text_break_nothing():
    raw = json.dumps(REQUEST | {"id": ID}).encode()
    for headers in (
        [("ce_specversion", None)],
        [("ce_specversion", b"\xff")],
        [("ce_specversion", b"1.0"), ("ce_id", b"\xff"), ("ce_source", None)],
        [("ce_specversion", b"1.0"), ("ce_source", b"\xff")],
    ):
        assert len(read_requested(raw, headers)) == 1


def test_its_trace_context_counts_where_the_record_has_none():
    assert only(read(REQUEST, EVENT | {"ce_traceparent": TRACE})).traceparent == TRACE
    assert only(read(REQUEST, EVENT | {"ce_traceparent": TRACE, "traceparent": OTHER_TRACE})).traceparent == OTHER_TRACE
    assert trace_context([]) is None


def test_a_rejection_names_the_producer_where_it_can_be_read():
    assert wrong(read({"producer": "billing"}, {})).producer == "billing"
    assert wrong(read({}, EVENT)).producer == "/billing/invoices"
    told = results.rejection(
        wrong(read({"producer": "billing"}, {})),
        Source("kafka", 3, 912, 0),
        came_at=results.now(),
        occurred_at=results.now(),
        trace_id=None,
    )
    assert json.loads(encode_result_record(told)[1])["producer"] == "billing"


def a_result(**changes):
    given = {
        "id": UUID(ID),
        "seq": 2,
        "status": State.SENT,
        "reason": Reason("accepted", "smtp_250"),
        "attempt": 1,
        "channel": "email",
        "source": Source("kafka", 3, 912, 7),
        "recipient_hash": None,
        "accepted_at": results.moment(1_790_000_000_000),
        "occurred_at": results.moment(1_790_000_000_000) + timedelta(seconds=1),
        "trace_id": None,
        "metadata": None,
        "producer": None,
        "replay_of": None,
        "test": False,
    }
    return results.change(**(given | changes))


def test_a_result_is_an_event():
    key, value, headers = encode_result_record(a_result(), TRACE)
    told = json.loads(value)
    assert key == ID.encode()
    assert {name: text.decode() for name, text in headers} == {
        "ce_specversion": "1.0",
        "ce_id": told["event_id"],
        "ce_source": "urn:relevo",
        "ce_type": "relevo.notification.sent",
        "ce_subject": ID,
        "ce_time": told["occurred_at"],
        "ce_dataschema": "urn:relevo:schema:notifications.results:1",
        "content-type": "application/json",
        "traceparent": TRACE,
    }
    assert len(headers) == len(dict(headers)), "each once"


def test_a_copy_of_a_result_is_the_same_event():
    again = a_result(occurred_at=results.now())
    assert dict(encode_result_record(a_result())[2])["ce_id"] == dict(encode_result_record(again)[2])["ce_id"]


def test_an_event_about_nothing_that_has_an_id_has_no_subject():
    rejected = wrong(read_requested(b"{", []))
    told = results.rejection(
        rejected, Source("kafka", 3, 912, 0), came_at=results.now(), occurred_at=results.now(), trace_id=None
    )
    key, value, headers = encode_result_record(told)
    assert "ce_subject" not in dict(headers)
    assert dict(headers)["ce_type"] == b"relevo.notification.rejected"
    assert key.decode() == json.loads(value)["event_id"]
