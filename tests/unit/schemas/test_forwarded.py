"""Since when a record stands on notifications.deduplicated: read as it was written, and never a reason to refuse it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.messages import Source
from schemas.records import decode_deduplicated, decode_forwarded, encode_deduplicated, encode_forwarded
from tests.builders import make_notification

SOURCE = Source("kafka", 3, 912, 7)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_comes_back_to_the_microsecond(moment):
    assert decode_forwarded([encode_forwarded(moment)]) == moment


@pytest.mark.parametrize("value", [b"", b"soon", b"1e9", b"\xff", b"9" * 30, b"-" + b"9" * 30], ids=repr)
def test_what_is_no_moment_is_none_and_the_record_is_read(value):
    notification = make_notification()
    _, raw, headers = encode_deduplicated(notification, SOURCE, ("relevo-deduplicated-at", value))
    assert decode_forwarded(headers) is None
    assert decode_deduplicated(raw, headers) == (notification, SOURCE)


def test_a_record_of_the_first_version_has_none():
    _, _, headers = encode_deduplicated(make_notification(), SOURCE)
    assert decode_forwarded(headers) is None


def test_the_source_is_still_what_the_first_version_reads():
    _, _, headers = encode_deduplicated(make_notification(), SOURCE, encode_forwarded(datetime.now(UTC)))
    assert dict(headers)["relevo-source"] == b"kafka 3 912 7"
    assert abs(decode_forwarded(headers) - datetime.now(UTC)) < timedelta(minutes=1)
