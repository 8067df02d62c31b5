"""Waiting for outcomes: one question for all who wait, only while somebody does, and nobody is held at the end."""

import asyncio
import time

import pytest

from ingest.waiting import Waiting
from schemas.errors import TransientError
from schemas.identity import new_id


class FakeOutcomes:
    """Which ids are finished, and every question that was asked."""

    def __init__(self):
        self.finished = set()
        self.questions = []
        self.asked = asyncio.Event()
        self.failures = []

    async def __call__(self, ids):
        self.questions.append(set(ids))
        self.asked.set()
        if self.failures:
            raise self.failures.pop()
        return self.finished & set(ids)


@pytest.fixture
def outcomes():
    return FakeOutcomes()


@pytest.fixture
async def waiting(outcomes):
    made = Waiting(outcomes, waiters_max=50)
    yield made
    await made.end()


def waits(waiting, notification_id, within_s=30.0, gone=lambda: False):
    return asyncio.create_task(waiting.until_terminal(notification_id, within_s=within_s, gone=gone))


async def test_who_waits_is_told_as_soon_as_it_is_finished(waiting, outcomes):
    one, other = new_id(), new_id()
    first, second = waits(waiting, one), waits(waiting, other)
    await outcomes.asked.wait()
    outcomes.finished.add(one)
    await asyncio.wait_for(first, 5)
    assert not second.done()
    outcomes.finished.add(other)
    await asyncio.wait_for(second, 5)


async def test_fifty_who_wait_cost_one_question_at_a_time(waiting, outcomes):
    ids = [new_id() for _ in range(25)]
    tasks = [waits(waiting, each) for each in ids * 2]
    await asyncio.sleep(0.35)
    assert outcomes.questions
    assert all(asked == set(ids) for asked in outcomes.questions)
    assert len(outcomes.questions) <= 5, "they were asked about one by one"
    outcomes.finished.update(ids)
    await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def test_nothing_is_asked_while_nobody_waits(waiting, outcomes):
    await waiting.until_terminal(new_id(), within_s=0.01, gone=lambda: False)
    await asyncio.sleep(0.15)
    asked = len(outcomes.questions)
    await asyncio.sleep(0.3)
    assert len(outcomes.questions) == asked
    # And asking begins again with the next one.
    identity = new_id()
    outcomes.finished.add(identity)
    await asyncio.wait_for(waits(waiting, identity), 5)


async def test_the_time_over_ends_the_waiting(waiting):
    begun = time.monotonic()
    await waiting.until_terminal(new_id(), within_s=0.2, gone=lambda: False)
    assert 0.15 <= time.monotonic() - begun < 3


async def test_who_has_left_is_waited_for_no_longer(waiting):
    left = []
    task = waits(waiting, new_id(), gone=lambda: bool(left))
    await asyncio.sleep(0.15)
    assert not task.done()
    left.append(True)
    await asyncio.wait_for(task, 5)


async def test_there_is_room_for_so_many_and_for_no_more(outcomes):
    waiting = Waiting(outcomes, waiters_max=2)
    tasks = [waits(waiting, new_id()) for _ in range(2)]
    await asyncio.sleep(0)
    assert waiting.full
    tasks[0].cancel()
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert not waiting.full
    await waiting.end()
    await asyncio.wait_for(tasks[1], 5)


async def test_at_the_end_all_are_let_go_at_once_and_nobody_waits_any_more(waiting):
    tasks = [waits(waiting, new_id()) for _ in range(10)]
    await asyncio.sleep(0)
    await waiting.end()
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    await asyncio.wait_for(waits(waiting, new_id()), 1)


@pytest.mark.parametrize("failure", [TransientError("away"), ValueError("a bug")], ids=["away", "a bug"])
async def test_a_question_that_fails_is_asked_again(waiting, outcomes, failure, monkeypatch):
    monkeypatch.setattr("ingest.waiting._RETRY_S", 0.01)
    outcomes.failures.append(failure)
    identity = new_id()
    outcomes.finished.add(identity)
    await asyncio.wait_for(waits(waiting, identity), 5)
    assert len(outcomes.questions) == 2
