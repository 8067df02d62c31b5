"""When to stop dead-lettering: what is one record's fault goes on for ever, what is everybody's stops early."""

from itertools import repeat
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dead_letter_limit import WINDOW, DeadLetterLimit

RATIO = 0.95

records = st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=60)


def after(ratio, judged):
    limit = DeadLetterLimit(ratio)
    for readable, dead in judged:
        limit.judge(readable=readable, dead=dead)
    return limit


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.integers(1, 400)), max_size=30))
def test_it_trips_exactly_when_a_full_window_holds_more_dead_letters_than_its_share(runs):
    limit, seen, expected = DeadLetterLimit(RATIO), [], False
    for readable, dead, times in runs:
        for _ in range(times):
            limit.judge(readable=readable, dead=dead)
            seen = (seen + [0] * readable + [1] * dead)[-WINDOW:]
            expected = expected or (len(seen) == WINDOW and sum(seen) > RATIO * WINDOW)
    assert limit.tripped == expected


@given(st.integers(0, 2**32))
def test_twice_as_many_bad_as_good_in_any_order_do_not_trip_it(seed):
    judged = [(1, False)] * 700 + [(0, True)] * 1400
    Random(seed).shuffle(judged)
    assert not after(RATIO, judged).tripped


def test_a_burst_shorter_than_the_window_does_not_trip_it_even_when_nothing_came_before():
    limit = after(RATIO, [(0, True)] * (WINDOW - 1))
    assert not limit.tripped
    limit.judge(readable=1, dead=False)
    for _ in repeat(None, WINDOW * 9 // 10):
        limit.judge(readable=1, dead=False)
        limit.judge(readable=0, dead=True)
    assert limit.tripped, "what is nearly all bad is so whatever single good one is in between"


def test_an_array_of_bad_items_is_one_dead_letter():
    assert not after(RATIO, [(0, True)] * 10).tripped


def test_good_requests_count_each_though_they_share_a_record():
    assert not after(RATIO, [(500, False), *[(0, True)] * 1000] * 5).tripped


@given(records)
def test_a_ratio_of_one_never_trips(judged):
    assert not after(1, [*judged, *[(0, True)] * (2 * WINDOW), *judged]).tripped


def test_once_tripped_it_stays_so():
    limit = after(RATIO, [(0, True)] * WINDOW)
    assert limit.tripped
    limit.judge(readable=500, dead=False)
    assert limit.tripped
