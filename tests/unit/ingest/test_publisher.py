"""The publisher: how rows become records, and whose context travels."""

import json

from ingest import publisher
from ingest.publisher import _records
from schemas.limits import HTTP_BODY_BYTES_MAX
from schemas.records import decode_requested
from schemas.topics import RECORD_BYTES_MAX
from tests.unit.ingest.fakes import TRACEPARENT, make_accepted


def test_a_lone_row_is_a_lone_object_with_its_context_in_the_header():
    row = make_accepted()
    (record,) = _records([row])
    assert json.loads(record.value)["id"] == str(row.notification.id)
    assert dict(record.headers) == {
        "content-type": b"application/json",
        "relevo-door": b"http",
        "traceparent": TRACEPARENT.encode(),
    }


def test_many_rows_are_one_array_in_which_each_has_its_own():
    rows = [make_accepted() for _ in range(3)]
    (record,) = _records(rows)
    assert "traceparent" not in dict(record.headers)
    assert decode_requested(record.value, None) == [(index, row.notification) for index, row in enumerate(rows)]


def test_a_record_stays_below_what_the_broker_takes():
    rows = [make_accepted(body="ñ" * (HTTP_BODY_BYTES_MAX // 2)) for _ in range(300)]
    records = list(_records(rows))
    assert all(len(record.value) < RECORD_BYTES_MAX for record in records)
    assert [row for record in records for row in record.rows] == rows
    assert len(records) <= 4


def test_more_than_a_record_may_carry_are_several():
    assert [len(record.rows) for record in _records([make_accepted()] * 501)] == [250, 251]


def test_an_unsampled_trace_makes_no_span():
    assert publisher._start_span(make_accepted().notification) is None
