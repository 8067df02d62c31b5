"""When an event is acknowledged: after its batch, in order, and never because something broke."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from infra.health import Readiness
from infra.settings import Settings
from pipeline import agent
from pipeline.agent import BATCH_BYTES_MAX, BATCH_RECORDS_MAX, GATHERED_RECORDS_MAX, Batches, declare_agent
from pipeline.app import make_app


class Stream:
    """Remembers what was acknowledged."""

    def __init__(self):
        self.acknowledged = []

    async def ack(self, event):
        self.acknowledged.append(event.message.offset)


class Deduplicator:
    """Takes a batch when `free` is set; breaks as often as `bugs` says."""

    def __init__(self):
        self.batches = []
        self.bugs = 0
        self.free = asyncio.Event()
        self.free.set()

    async def process(self, records):
        await self.free.wait()
        self.batches.append([record.offset for record in records])
        if self.bugs:
            self.bugs -= 1
            raise RuntimeError("a bug of ours")


class Bench:
    def __init__(self):
        self.deduplicator, self.readiness, self.stream = Deduplicator(), Readiness(), Stream()
        self.batches = Batches(self.deduplicator, self.readiness)

    async def put(self, *offsets, value=b""):
        for offset in offsets:
            message = SimpleNamespace(partition=0, offset=offset, timestamp=1.0, key=None, value=value, headers=[])
            await self.batches.put(self.stream, SimpleNamespace(message=message))

    @asynccontextmanager
    async def running(self):
        self.batches.start()
        try:
            yield self
        finally:
            await self.batches.stop()

    async def until(self, truth):
        async with asyncio.timeout(10):
            while not truth():  # noqa: ASYNC110 -- the state is the fact to wait for
                await asyncio.sleep(0.001)


@pytest.fixture
def declared():
    """The app with its agent, not started."""
    app, _table = make_app(Settings(), "test")
    bench = Bench()
    declare_agent(app, bench.batches)
    return app, bench


async def test_nothing_is_acknowledged_before_its_batch_is_through_and_then_all_of_it_in_order():
    bench = Bench()
    bench.deduplicator.free.clear()
    async with bench.running():
        await bench.put(*range(5))
        await asyncio.sleep(0.01)
        assert bench.stream.acknowledged == []
        bench.deduplicator.free.set()
        await bench.until(lambda: bench.stream.acknowledged == list(range(5)))


async def test_a_batch_that_breaks_is_neither_passed_over_nor_the_end(monkeypatch):
    monkeypatch.setattr(agent, "BUG_PAUSE_S", 0.02)
    bench = Bench()
    bench.deduplicator.bugs = 3
    async with bench.running():
        await bench.put(0, 1)
        await bench.until(lambda: len(bench.deduplicator.batches) == 2)
        assert "agent" in bench.readiness.reasons
        assert bench.stream.acknowledged == []
        await bench.put(2)
        await bench.until(lambda: bench.stream.acknowledged == [0, 1, 2])
        assert bench.readiness.reasons == {}


async def test_no_more_is_gathered_than_can_be_told():
    bench = Bench()
    bench.deduplicator.free.clear()
    async with bench.running():
        filling = asyncio.create_task(bench.put(*range(3 * GATHERED_RECORDS_MAX)))
        await asyncio.sleep(0.02)
        assert not filling.done()
        assert len(bench.batches._gathered) == GATHERED_RECORDS_MAX
        bench.deduplicator.free.set()
        await bench.until(lambda: bench.stream.acknowledged == list(range(3 * GATHERED_RECORDS_MAX)))
        await filling


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (b"", [BATCH_RECORDS_MAX, 50]),
        (None, [BATCH_RECORDS_MAX, 50]),
        (b"x" * (BATCH_BYTES_MAX // 100), [101, 101, 48]),
    ],
)
async def test_a_batch_is_bounded_by_its_records_and_by_their_size(value, sizes):
    bench = Bench()
    await bench.put(*range(BATCH_RECORDS_MAX + 50), value=value)
    async with bench.running():
        await bench.until(lambda: len(bench.stream.acknowledged) == BATCH_RECORDS_MAX + 50)
    assert [len(batch) for batch in bench.deduplicator.batches] == sizes
    assert bench.stream.acknowledged == list(range(BATCH_RECORDS_MAX + 50))


async def test_a_record_that_is_larger_than_a_batch_is_one():
    bench = Bench()
    await bench.put(0, 1, 2, value=b"x" * (BATCH_BYTES_MAX + 1))
    async with bench.running():
        await bench.until(lambda: bench.stream.acknowledged == [0, 1, 2])
    assert bench.deduplicator.batches == [[0], [1], [2]]


async def test_one_agent_takes_one_event_after_the_other_and_leaves_acknowledging_to_the_batches(declared):
    app, bench = declared
    [dedupe] = app.agents.values()
    assert dedupe.concurrency == 1, "with more, an offset is committed above one that is still being worked on"
    seen = []

    class Source(Stream):
        def noack(self):
            seen.append("noack")
            return self

        async def events(self):
            for offset in range(3):
                yield SimpleNamespace(message=SimpleNamespace(offset=offset))

    await dedupe.fun(Source())
    assert seen == ["noack"]
    assert [event.message.offset for _, event in bench.batches._gathered] == [0, 1, 2]


def test_the_app_keeps_no_table_so_there_is_no_changelog_to_be_read_before_it_works(declared):
    app, _ = declared
    assert dict(app.tables) == {}
    assert app.conf.topic_allow_declare is False
    assert app.conf.topic_disable_leader is True


def test_a_group_without_offsets_begins_at_the_first_record(declared):
    app, _ = declared
    assert app.conf.consumer_auto_offset_reset == "earliest"
