"""Statistics at the door: which window, kept apart by what, and every error at once."""

from datetime import UTC, datetime

import pytest
from multidict import MultiDict

from ingest.stats import StatsQuery, read_stats_query, stats_document
from schemas.errors import InvalidRequestError

NOW = datetime(2026, 11, 24, 20, 15, 30, tzinfo=UTC)


def hour(day, of_day, month=11):
    return datetime(2026, month, day, of_day, tzinfo=UTC)


def read(**given):
    return read_stats_query(MultiDict({name.rstrip("_"): value for name, value in given.items()}), now=NOW)


def test_without_parameters_it_is_the_last_day_by_hour_and_status():
    assert read() == StatsQuery(hour(23, 21), hour(24, 21), ("hour", "status"))


def test_the_window_reaches_to_the_full_hours_around_it():
    found = read(from_="2026-11-24T09:59:59.999Z", to="2026-11-24T11:00:00.001+01:00")
    assert (found.begin, found.end) == (hour(24, 9), hour(24, 11))
    assert read(from_="2026-11-24T09:00:00Z", to="2026-11-24T10:00:00Z").end == hour(24, 10)


def test_one_end_is_enough():
    assert read(to="2026-11-02T10:00:00Z").begin == hour(1, 10)
    assert read(from_="2026-11-01T10:00:00Z").end == hour(24, 21)


def test_by_keeps_its_order_and_says_a_thing_once():
    assert read(by="producer,hour,producer").by == ("producer", "hour")


WRONG = {
    "no time": ({"from_": "yesterday"}, "/from", "invalid_time"),
    "a time without an offset": ({"to": "2026-11-24T10:00:00"}, "/to", "invalid_time"),
    "a time before all": ({"to": "0001-01-01T00:00:00+14:00"}, "/to", "invalid_time"),
    "a year that nobody counts in": ({"from_": "1969-12-31T23:00:00Z"}, "/from", "invalid_time"),
    "a year that has no next hour": ({"to": "9999-12-31T23:30:00Z"}, "/to", "invalid_time"),
    "a window that is none": ({"from_": "2026-11-24T10:00:00Z", "to": "2026-11-24T10:00:00Z"}, "/to", "empty_window"),
    "more than 31 days": ({"from_": "2026-10-01T00:00:00Z"}, "/to", "window_too_long"),
    "kept apart by what is not counted": ({"by": "hour,recipient"}, "/by", "unknown_value"),
    "nothing to be kept apart by": ({"by": ""}, "/by", "unknown_value"),
    "another parameter": ({"until": "2026-11-24T10:00:00Z"}, "/until", "unknown_parameter"),
}


@pytest.mark.parametrize(("given", "pointer", "code"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(given, pointer, code):
    with pytest.raises(InvalidRequestError) as refused:
        read(**given)
    assert [(error.pointer, error.code) for error in refused.value.errors] == [(pointer, code)]


def test_all_that_is_wrong_is_named_at_once():
    with pytest.raises(InvalidRequestError) as refused:
        read(from_="x", to="y", by="z")
    assert {error.pointer for error in refused.value.errors} == {"/from", "/to", "/by"}


def test_thirty_one_days_are_allowed():
    assert read(from_="2026-10-24T21:00:00Z", to="2026-11-24T21:00:00Z").begin == hour(24, 21, month=10)


def test_the_answer_says_its_window_and_who_is_nobody():
    query = StatsQuery(hour(24, 9), hour(24, 10), ("hour", "producer"))
    rows = [{"hour": hour(24, 9), "producer": "", "count": 2}, {"hour": hour(24, 9), "producer": "shop", "count": 1}]
    at = "2026-11-24T09:00:00.000Z"
    assert stats_document(query, rows) == {
        "from": at,
        "to": "2026-11-24T10:00:00.000Z",
        "by": ["hour", "producer"],
        "rows": [{"hour": at, "producer": None, "count": 2}, {"hour": at, "producer": "shop", "count": 1}],
    }
