"""When another attempt is due, for every way an attempt can fail for a passing reason."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sender.ladder import BURST_ATTEMPTS, IN_HAND_S_MAX, Again, Ladder, named_delay_s

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DEFAULT = Ladder(5.0, (60.0, 300.0, 900.0, 3600.0, 14400.0), 86_400.0)


def after(attempt, ladder=DEFAULT, *, age_s=0.0, named_s=None):
    return ladder.after(attempt, accepted_at=NOW - timedelta(seconds=age_s), now=NOW, named_s=named_s)


def test_the_first_try_and_three_retries_are_in_hand():
    assert [after(attempt) for attempt in (1, 2, 3)] == [Again(5.0, parked=False)] * 3


def test_then_each_step_is_one_attempt_and_the_last_one_repeats():
    waits = [after(attempt).wait_s for attempt in range(4, 12)]
    assert waits == [60, 300, 900, 3600, 14400, 14400, 14400, 14400]
    assert all(after(attempt).parked for attempt in range(4, 12))


def test_burst_only_fails_after_the_burst():
    assert after(4, Ladder(5.0, (), 86_400.0)) is None
    assert after(3, Ladder(5.0, (), 86_400.0)) == Again(5.0, parked=False)


def test_nothing_begins_after_a_day():
    assert after(6, age_s=86_400 - 899) is None
    assert after(6, age_s=86_400 - 901) == Again(900.0, parked=True)


def test_a_short_delay_that_is_named_is_waited_for_in_hand_and_a_long_one_in_the_ledger():
    assert after(1, named_s=20.0) == Again(20.0, parked=False)
    assert after(1, named_s=300.0) == Again(300.0, parked=True)
    assert after(1, named_s=1.0) == Again(5.0, parked=False)
    assert after(4, named_s=10.0) == Again(60.0, parked=True)
    assert after(1, Ladder(5.0, (), 86_400.0), named_s=300.0) == Again(300.0, parked=True)


@given(st.integers(1, 50), st.floats(0, 100_000), st.none() | st.floats(0, 86_400))
def test_the_whole_ends_within_its_bounds(attempt, age_s, named_s):
    again = after(attempt, age_s=age_s, named_s=named_s)
    if again is None:
        assert age_s > 0 or attempt >= BURST_ATTEMPTS or (named_s or 0) > IN_HAND_S_MAX
        return
    assert again.wait_s >= max(5.0, named_s or 0)
    if again.parked:
        assert age_s + again.wait_s <= 86_401
    else:
        assert attempt < BURST_ATTEMPTS
        assert again.wait_s <= IN_HAND_S_MAX


@pytest.mark.parametrize(
    ("reply", "delay_s"),
    [
        ("451 4.7.1 Greylisted, please try again in 300 seconds", 300),
        ("450 4.2.0 try again in 5 minutes", 300),
        ("421 come back after 2 hours", 7200),
        ("451 wait 30s", 30),
        ("451 retry after 1 min", 60),
        ("451 try again in 999999 seconds", None),
        ("451 4.7.1 later", None),
        ("250 queued as 300 seconds", None),
        (None, None),
    ],
)
def test_a_delay_is_read_from_the_relays_words(reply, delay_s):
    assert named_delay_s(reply) == delay_s
