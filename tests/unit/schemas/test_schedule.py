"""When a request may be sent: how times are written, what they mean, and what is refused."""

import json
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidRequestError
from schemas.identity import fingerprint
from schemas.limits import SCHEDULE_DAYS_MAX
from schemas.moments import read_moment, read_zone
from schemas.records import DOOR_HEADER, Rejection, read_requested
from schemas.validation import read_content, read_new_schedule

GOOD = {"to": "receiver@example.org", "subject": "Alerta", "body": "Se ha detectado."}
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LOCAL = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


def content(**fields):
    return read_content(GOOD | fields, accepts=frozenset(), at=NOW)


def errors(**fields):
    with pytest.raises(InvalidRequestError) as refused:
        content(**fields)
    return {(error.pointer, error.code) for error in refused.value.errors}


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("2026-12-24T09:00:00-06:00", datetime(2026, 12, 24, 15, tzinfo=UTC)),
        ("2026-12-24t15:00:00z", datetime(2026, 12, 24, 15, tzinfo=UTC)),
        ("2026-12-24T15:00:00.5Z", datetime(2026, 12, 24, 15, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-12-24T15:00:00.123456789+00:00", datetime(2026, 12, 24, 15, 0, 0, 123_456, tzinfo=UTC)),
        ("2024-02-29T23:59:59-23:59", datetime(2024, 3, 1, 23, 58, 59, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_with_its_offset_is_one_moment(written, means):
    assert read_moment(written) == means
    assert read_moment(written).tzinfo is UTC


@pytest.mark.parametrize(
    "written",
    [
        *("2026-12-24", "2026-12-24T09:00Z", "2026-12-24 09:00:00Z", "20261224T090000Z", "2026-W52-4T09:00:00Z"),
        *("2026-12-24T24:00:00Z", "2026-12-31T23:59:60Z", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z"),
        *("2026-12-24T09:00:00", "2026-12-24T09:00:00+24:00", "2026-12-24T09:00:00+0600", "2026-12-24T09:00:00.Z"),
        *(
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-00:01",
            "\u0662026-12-24T09:00:00Z",
            "",
            "soon",
            1,
            None,
            [],
        ),
        "2026-12-24T09:00:00Z\n",
    ],
)
def test_anything_else_is_none(written):
    with pytest.raises(ValueError, match="must be a time"):
        read_moment(written)


@given(st.datetimes(LOCAL.replace(year=1900), LOCAL.replace(year=2100)), st.integers(-1439, 1439))
def test_what_is_written_is_read_as_it_was_meant(moment, offset):
    meant = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert read_moment(meant.isoformat()) == meant


@pytest.mark.parametrize(
    ("zone", "local", "utc"),
    [
        ("America/Mexico_City", "2026-12-24T09:00:00", "2026-12-24T15:00:00"),
        # 02:00 becomes 03:00: 02:30 does not exist, and is moved forward by the gap.
        ("Europe/Madrid", "2026-03-29T02:30:00", "2026-03-29T01:30:00"),
        ("Europe/Madrid", "2026-03-29T03:30:00", "2026-03-29T01:30:00"),
        # 03:00 becomes 02:00: 02:30 exists twice, and means the first.
        ("Europe/Madrid", "2026-10-25T02:30:00", "2026-10-25T00:30:00"),
        ("Europe/Madrid", "2026-10-25T03:00:00", "2026-10-25T02:00:00"),
        # Half an hour only.
        ("Australia/Lord_Howe", "2026-10-04T02:15:00", "2026-10-03T15:45:00"),
        # A day that Samoa left out.
        ("Pacific/Apia", "2011-12-30T12:00:00", "2011-12-30T22:00:00"),
    ],
)
def test_a_local_time_means_what_the_documented_rule_says(zone, local, utc):
    assert read_moment(local, read_zone(zone)) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Europe/Madrid", "America/New_York", "Australia/Lord_Howe"])
def test_local_times_in_order_are_never_more_than_a_gap_out_of_order(zone):
    """Through a year with two changes of the clocks: a later local time is never much earlier."""
    found = read_zone(zone)
    moments = [read_moment((LOCAL + timedelta(minutes=15 * n)).isoformat(), found) for n in range(4 * 24 * 365)]
    assert min(later - earlier for earlier, later in pairwise(moments)) >= -timedelta(hours=1)


@pytest.mark.parametrize(
    "name", ["Nowhere/Else", "", "../etc/passwd", "/etc/localtime", "europe/madrid", "CET-1", 1, []]
)
def test_a_zone_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="IANA"):
        read_zone(name)


def test_the_rules_of_a_zone_come_from_the_package_whatever_the_machine_has():
    assert read_zone("Europe/Madrid") is not ZoneInfo("Europe/Madrid")
    assert read_zone("US/Central").key == "US/Central"


def test_only_the_moment_counts():
    same = [
        content(scheduled_for="2026-12-24T09:00:00-06:00"),
        content(scheduled_for="2026-12-24T15:00:00Z"),
        content(scheduled_for="2026-12-24T09:00:00", time_zone="America/Mexico_City"),
    ]
    assert len({fingerprint(each) for each in same}) == 1
    assert fingerprint(same[0]) != fingerprint(content(scheduled_for="2026-12-24T15:00:01Z"))


def test_a_zone_is_meant_for_every_local_time_and_for_no_other():
    found = content(scheduled_for="2026-12-24T09:00:00", expires_at="2026-12-24T09:30:00", time_zone="Europe/Madrid")
    assert (found.scheduled_for.hour, found.expires_at.hour) == (8, 8)
    mixed = content(scheduled_for="2026-12-24T09:00:00", expires_at="2026-12-24T09:30:00Z", time_zone="Europe/Madrid")
    assert (mixed.scheduled_for.hour, mixed.expires_at.hour) == (8, 9)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"scheduled_for": "2026-12-24T09:00:00"}, {("/scheduled_for", "invalid_time")}),
        (
            {"scheduled_for": "soon", "time_zone": "Europe/Madrid"},
            {("/scheduled_for", "invalid_time"), ("/time_zone", "without_local_time")},
        ),
        ({"scheduled_for": "2026-12-24T09:00:00", "time_zone": "Nowhere"}, {("/time_zone", "unknown_time_zone")}),
        ({"scheduled_for": "2026-12-24T09:00:00", "time_zone": 1}, {("/time_zone", "unknown_time_zone")}),
        ({"time_zone": "Europe/Madrid"}, {("/time_zone", "without_local_time")}),
        ({"scheduled_for": "2026-12-24T09:00:00Z", "time_zone": "UTC"}, {("/time_zone", "without_local_time")}),
        (
            {"scheduled_for": "2026-12-24T09:00:00Z", "expires_at": "2026-12-24T09:00:00Z"},
            {("/expires_at", "not_after_schedule")},
        ),
        ({"scheduled_for": "2027-11-24T12:00:00.000001Z"}, {("/scheduled_for", "too_far")}),
        (
            {"scheduled_for": "x", "expires_at": 1, "subject": ""},
            {("/scheduled_for", "invalid_time"), ("/expires_at", "invalid_time"), ("/subject", "blank")},
        ),
    ],
)
def test_each_mistake_is_named_and_all_at_once(fields, wrong):
    assert errors(**fields) == wrong


def test_nothing_given_is_nothing_meant():
    assert content(scheduled_for=None, expires_at=None, time_zone=None) == content()


def test_the_horizon_is_a_year_and_the_past_means_now():
    assert content(scheduled_for=(NOW + timedelta(days=SCHEDULE_DAYS_MAX)).isoformat()).scheduled_for > NOW
    assert content(scheduled_for="2000-01-01T00:00:00Z").scheduled_for.year == 2000
    # What has expired is judged by whoever knows whether it is a repeat.
    assert content(expires_at="2000-01-01T00:00:00Z").expires_at.year == 2000


def test_a_record_is_judged_by_its_own_time_and_what_ingest_accepted_is_not_judged_again():
    far = GOOD | {"id": str(uuid4()), "scheduled_for": (NOW + timedelta(days=SCHEDULE_DAYS_MAX)).isoformat()}
    value = json.dumps(far).encode()
    for at in (NOW, None):
        assert not isinstance(read_requested(value, [], at=at)[0], Rejection)
    early = NOW - timedelta(seconds=5)
    (refused,) = read_requested(value, [], at=early)
    assert [(error.pointer, error.code) for error in refused.errors] == [("/scheduled_for", "too_far")]
    # A record may begin with what was accepted some moments before the rest of it.
    assert not isinstance(read_requested(value, [(DOOR_HEADER, b"http")], at=early)[0], Rejection)


def test_a_new_time_is_read_by_the_same_rules():
    assert read_new_schedule({"scheduled_for": None}, at=NOW) is None
    found = read_new_schedule({"scheduled_for": "2026-12-24T09:00:00", "time_zone": "Europe/Madrid"}, at=NOW)
    assert found == datetime(2026, 12, 24, 8, tzinfo=UTC)
    for given_, pointer in (
        ([], ""),
        ({}, "/scheduled_for"),
        ({"scheduled_for": None, "expires_at": None}, "/expires_at"),
        ({"scheduled_for": "2028-01-01T00:00:00Z"}, "/scheduled_for"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            read_new_schedule(given_, at=NOW)
        assert [error.pointer for error in refused.value.errors] == [pointer]
