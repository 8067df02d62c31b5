"""Reading results: what is one is read whole, what is none is named and passed over."""

import pytest

from sender.feed.results import read_result, readable
from tests.results import AT, as_record, changed, make_change, make_rejection


def test_a_result_is_read_with_what_its_readers_need():
    result = make_change(producer="billing")
    found = read_result(as_record(result))
    assert (found.event_id, found.id, found.seq, found.status) == (result.event_id, result.id, 2, "sent")
    assert (found.channel, found.producer, found.occurred_at, found.test) == ("email", "billing", AT, False)


def test_a_rejection_may_have_no_id():
    found = read_result(as_record(make_rejection()))
    assert (found.id, found.seq, found.status) == (None, 0, "rejected")


def test_a_minor_version_and_a_status_that_are_newer_than_this_are_read():
    found = read_result(changed(make_change(), schema="notifications.results/1.7", status="archived", more=1))
    assert (found.status, found.result["more"]) == ("archived", 1)


ODD = {
    "another schema": {"schema": "notifications.results/2"},
    "no schema": {"schema": None},
    "no id": {"id": None},
    "an id that is none": {"id": "x"},
    "an event that is none": {"event_id": 7},
    "no seq": {"seq": None},
    "a seq below all": {"seq": -1},
    "a seq beyond all": {"seq": 2**40},
    "a truth for a seq": {"seq": True},
    "no status": {"status": None},
    "an endless status": {"status": "x" * 65},
    "what PostgreSQL takes nowhere": {"producer": "a\x00b"},
    "a channel that is none": {"channel": 1},
    "no time": {"occurred_at": None},
    "a time without an offset": {"occurred_at": "2026-01-02T03:04:05"},
    "a time that UTC does not have": {"occurred_at": "0001-01-01T00:00:00+14:00"},
    "a test that is none": {"test": "yes"},
}


@pytest.mark.parametrize("fields", ODD.values(), ids=ODD)
def test_what_is_no_result_is_refused_without_repeating_it(fields):
    record = changed(make_change(), **fields)
    with pytest.raises(ValueError) as refused:
        read_result(record)
    assert "x" * 65 not in str(refused.value)
    assert "a\x00b" not in str(refused.value)


def test_one_that_is_none_takes_no_other_along():
    good = make_change()
    records = [as_record(None), as_record(b"{"), as_record(b"[]"), as_record(good), changed(good, schema="other/1")]
    assert [each.event_id for each in readable(records, "test")] == [good.event_id]
