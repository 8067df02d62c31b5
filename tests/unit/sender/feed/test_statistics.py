"""Statistics: each event once, and without the simulator's."""

from infra.background import Background
from infra.health import Readiness
from schemas.topics import REQUESTED, RESULTS
from sender.feed.statistics import REMEMBERED_S, Statistics
from tests.results import as_record, make_change, make_rejection


class Store:
    def __init__(self):
        self.counted = []

    async def count(self, results):
        self.counted.append(list(results))
        return len(results)

    async def forget_counted(self, *, older_than_s, rows_max):
        return 0


async def counted(records):
    store, background = Store(), Background(Readiness())
    await Statistics(store, background).handle(records)
    await background.stop()
    return store.counted


async def test_of_copies_the_first_is_counted():
    change = make_change()
    first, copy = as_record(change, 1), as_record(change, 2)
    [[found]] = await counted([first, copy])
    assert found.record is first


async def test_rejections_are_counted_and_the_simulator_is_not():
    [[found]] = await counted([as_record(make_change(test=True)), as_record(make_rejection())])
    assert found.status == "rejected"


async def test_where_nothing_is_to_be_counted_nobody_is_asked():
    assert await counted([as_record(b"?"), as_record(make_change(test=True))]) == []


def test_an_event_is_remembered_for_longer_than_a_copy_of_it_can_be_read():
    week_of_a_segment_s = 7 * 24 * 3600
    assert (RESULTS.retention_ms + REQUESTED.retention_ms) / 1000 + week_of_a_segment_s < REMEMBERED_S
