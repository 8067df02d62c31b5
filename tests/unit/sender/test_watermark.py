"""The lowest incomplete offset, for every order in which records can become complete."""

from hypothesis import given
from hypothesis import strategies as st

from sender.watermark import Watermark


def test_nothing_is_committable_before_the_first_is_complete():
    watermark = Watermark()
    for offset in (5, 6, 7):
        watermark.begin(0, offset)
    watermark.complete(0, 6)
    watermark.complete(0, 7)
    assert watermark.take_committable() == {}
    watermark.complete(0, 5)
    assert watermark.take_committable() == {0: 8}
    assert watermark.take_committable() == {}


def test_gaps_that_kafka_leaves_are_no_gaps():
    watermark = Watermark()
    for offset in (5, 9):  # compaction and transaction markers take offsets away
        watermark.begin(0, offset)
        watermark.complete(0, offset)
    assert watermark.take_committable() == {0: 10}


def test_a_partition_that_was_let_go_takes_nothing_any_more():
    watermark = Watermark()
    watermark.begin(0, 5)
    watermark.forget(0)
    watermark.complete(0, 5)
    assert watermark.take_committable() == {}


def test_a_rewind_starts_the_partition_anew():
    watermark = Watermark()
    for offset in (5, 6, 5):
        watermark.begin(0, offset)
    watermark.complete(0, 6)
    assert watermark.take_committable() == {}
    watermark.complete(0, 5)
    assert watermark.take_committable() == {0: 6}


@given(st.lists(st.integers(0, 60), unique=True, min_size=1), st.randoms(use_true_random=False), st.data())
def test_never_passes_an_incomplete_offset(offsets, random, data):
    offsets.sort()
    watermark = Watermark()
    for offset in offsets:
        watermark.begin(3, offset)
    order = offsets[:]
    random.shuffle(order)
    complete = set()
    committed = 0
    for offset in order[: data.draw(st.integers(0, len(order)))]:
        watermark.complete(3, offset)
        complete.add(offset)
        committed = watermark.take_committable().get(3, committed)
        incomplete = [each for each in offsets if each not in complete]
        # Neither above what is incomplete, nor below what could be committed.
        assert all(each in complete for each in offsets if each < committed)
        expected = max((each for each in offsets if not incomplete or each < incomplete[0]), default=-1) + 1
        assert committed == expected
    assert watermark.span(3) == len([each for each in offsets if each >= committed])


def test_what_could_not_be_committed_is_offered_again_and_never_a_lower_one():
    watermark = Watermark()
    for offset in (5, 6, 7):
        watermark.begin(0, offset)
    watermark.complete(0, 5)
    refused = watermark.take_committable()
    watermark.put_back(refused)
    assert watermark.take_committable() == {0: 6}
    watermark.complete(0, 6)
    watermark.put_back(refused)
    assert watermark.take_committable() == {0: 7}
    watermark.forget(0)
    watermark.put_back({0: 7})
    assert watermark.take_committable() == {}
