"""How long a process that ended must wait."""

from infra.stack.backoff import LONGEST_S, STABLE_S, Backoff


def test_each_wait_is_twice_the_last_one_up_to_the_longest():
    backoff = Backoff()
    waits = [backoff.after(lived_s=1.0) for _ in range(8)]
    assert waits == [0.5, 1, 2, 4, 8, 16, LONGEST_S, LONGEST_S]


def test_a_process_that_was_stable_begins_anew():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(lived_s=0.1)
    assert backoff.after(lived_s=STABLE_S) == 0.5


def test_somebody_who_asks_need_not_wait_for_the_past():
    backoff = Backoff()
    for _ in range(5):
        backoff.after(lived_s=0.1)
    backoff.reset()
    assert backoff.after(lived_s=0.1) == 0.5
