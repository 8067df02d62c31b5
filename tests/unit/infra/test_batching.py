"""Natural batching: whoever is free takes everything that waits."""

import asyncio
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.batching import Batcher


class Writer:
    """Writes when it is told to, and remembers its batches. An item that is an exception is raised."""

    def __init__(self, *, held=True):
        self.batches = []
        self.under_way = self.most_under_way = 0
        self._gate = asyncio.Event()
        if not held:
            self._gate.set()

    def release(self):
        self._gate.set()

    async def __call__(self, items):
        self.batches.append(items)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._gate.wait()
            for item in items:
                if isinstance(item, BaseException):
                    raise item
            return [("answer", item) for item in items]
        finally:
            self.under_way -= 1


async def submitted(batcher, items):
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def answers_of(tasks):
    async with asyncio.timeout(2):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_lone_item_waits_for_nobody():
    writer = Writer(held=False)
    batcher = Batcher(writer, rows_max=500, writers=2)
    assert await batcher.submit("a") == ("answer", "a")
    assert await batcher.submit("b") == ("answer", "b")
    assert writer.batches == [["a"], ["b"]]


async def test_what_comes_during_a_write_goes_out_as_one():
    writer = Writer()
    batcher = Batcher(writer, rows_max=500, writers=1)
    tasks = await submitted(batcher, ["first"])
    tasks += await submitted(batcher, range(100))
    assert writer.batches == [["first"]]
    writer.release()
    assert await answers_of(tasks) == [("answer", "first"), *(("answer", number) for number in range(100))]
    assert writer.batches == [["first"], list(range(100))]


async def test_a_batch_holds_at_most_rows_max():
    writer = Writer()
    batcher = Batcher(writer, rows_max=3, writers=1)
    tasks = await submitted(batcher, range(8))
    writer.release()
    await answers_of(tasks)
    assert [len(batch) for batch in writer.batches] == [3, 3, 2]
    assert sum(writer.batches, []) == list(range(8))  # noqa: RUF017 -- a few items


async def test_no_more_writes_are_under_way_than_there_are_writers():
    writer = Writer()
    batcher = Batcher(writer, rows_max=1, writers=2)
    tasks = await submitted(batcher, range(6))
    assert writer.batches == [[0], [1]]
    writer.release()
    assert await answers_of(tasks) == [("answer", number) for number in range(6)]
    assert writer.most_under_way == 2


async def test_an_error_reaches_its_batch_and_nobody_else():
    writer = Writer()
    batcher = Batcher(writer, rows_max=2, writers=1)
    error = OSError("away")
    tasks = await submitted(batcher, ["a", "b", "c", error, "e", "f"])
    writer.release()
    assert await answers_of(tasks) == [
        ("answer", "a"),
        ("answer", "b"),
        error,
        error,
        ("answer", "e"),
        ("answer", "f"),
    ]


async def test_a_writer_that_lost_an_answer_gives_none_to_the_wrong_item():
    async def forgetful(items):
        return items[1:]

    batcher = Batcher(forgetful, rows_max=2, writers=1)
    tasks = await submitted(batcher, ["a", "b", "c"])
    found = await answers_of(tasks)
    assert [type(answer) for answer in found] == [AssertionError] * 3


async def test_who_no_longer_waits_takes_nothing_from_the_others():
    writer = Writer()
    batcher = Batcher(writer, rows_max=500, writers=1)
    tasks = await submitted(batcher, ["writing", "writing too"])
    tasks += await submitted(batcher, ["a", "b", "c"])
    for task in (tasks[0], tasks[3]):
        task.cancel()
    await asyncio.sleep(0)
    writer.release()
    found = await answers_of(tasks)
    assert [answer for answer in found if not isinstance(answer, asyncio.CancelledError)] == [
        ("answer", "writing too"),
        ("answer", "a"),
        ("answer", "c"),
    ]
    # What no write had begun with was taken back.
    assert "b" not in sum(writer.batches, [])  # noqa: RUF017 -- a few items


async def test_an_error_that_nobody_waits_for_is_no_noise():
    writer = Writer()
    batcher = Batcher(writer, rows_max=500, writers=1)
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    (task,) = await submitted(batcher, [OSError("away")])
    task.cancel()
    await answers_of([task])
    writer.release()
    await asyncio.sleep(0.01)
    gc.collect()
    assert noise == []


async def test_after_a_time_of_rest_it_goes_on():
    writer = Writer(held=False)
    batcher = Batcher(writer, rows_max=10, writers=1)
    for round_number in range(3):
        with pytest.raises(OSError, match="away"):
            await batcher.submit(OSError("away"))
        assert await answers_of(await submitted(batcher, [round_number])) == [("answer", round_number)]


@given(
    st.lists(st.sampled_from(["submit", "fail", "cancel", "turn"]), max_size=40),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_everyone_who_waits_gets_exactly_its_own_answer(steps, rows_max, writers):
    async def run():
        seen = []

        async def write(items):
            assert 1 <= len(items) <= rows_max
            seen.extend(items)
            await asyncio.sleep(0)
            if any(kind == "fail" for kind, _ in items):
                raise OSError(str(items))
            return [number for _, number in items]

        batcher = Batcher(write, rows_max=rows_max, writers=writers)
        tasks, cancelled = [], set()
        for number, step in enumerate(steps):
            if step in {"submit", "fail"}:
                tasks.append((number, step, asyncio.create_task(batcher.submit((step, number)))))
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)][2].cancel()
                cancelled.add(number % len(tasks))
            else:
                await asyncio.sleep(0)
        found = await answers_of([task for _, _, task in tasks])
        for place, ((number, step, _), answer) in enumerate(zip(tasks, found, strict=True)):
            if isinstance(answer, asyncio.CancelledError):
                assert place in cancelled
            elif isinstance(answer, OSError):
                assert str((step, number)) in str(answer)
            else:
                assert (answer, step) == (number, "submit")
        assert [number for _, number in seen] == sorted({number for _, number in seen})

    asyncio.run(run())


async def test_items_of_several_rows_fill_a_batch_by_their_rows_and_are_never_cut():
    writer = Writer()
    batcher = Batcher(writer, rows_max=4, writers=1, size=len)
    tasks = await submitted(batcher, ["a", "bb", "ccc", "d", "eeeee", "f"])
    assert writer.batches == [["a", "bb"]]
    writer.release()
    assert await answers_of(tasks) == [("answer", item) for item in ("a", "bb", "ccc", "d", "eeeee", "f")]
    assert writer.batches == [["a", "bb"], ["ccc", "d"], ["eeeee"], ["f"]]


async def test_what_may_linger_goes_together_and_a_whole_batch_waits_for_nobody():
    writer = Writer(held=False)
    batcher = Batcher(writer, rows_max=3, writers=1, linger_s=0.05)
    first = await submitted(batcher, ["a"])
    assert writer.batches == []
    later = await submitted(batcher, ["b"])
    await answers_of(first + later)
    assert writer.batches == [["a", "b"]]
    hour = Batcher(writer, rows_max=3, writers=1, linger_s=3600.0)
    await answers_of(await submitted(hour, ["c", "d", "e"]))
    assert writer.batches[1:] == [["c", "d", "e"]]
