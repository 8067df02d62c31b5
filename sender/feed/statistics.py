"""
Statistics: how many results there were, per hour, status, channel and producer.

They equal a fold of notifications.results by event_id: each event is counted once, however often it is read and
however many copies of it there are. Only the database has to be asked for that, because it keeps which events were
counted beside the counts, in one transaction; the offsets may stay where they are for every reader, at the broker.
"""

from collections.abc import Sequence
from typing import Protocol

from aiokafka import ConsumerRecord

from infra.background import Background
from infra.logs import get_logger
from schemas.topics import DAY_MS, REQUESTED, RESULTS
from sender.feed.results import ResultRecord, readable

log = get_logger()

# An event can come again as long as it, or a copy of it, is on the topic. A copy may be made as long as the request is
# on its topic; Kafka takes records away a segment at a time, which by default is a week; and a day more.
REMEMBERED_S = (RESULTS.retention_ms + REQUESTED.retention_ms + 7 * DAY_MS + DAY_MS) / 1000

FORGET_INTERVAL_S = 60.0
FORGET_ROWS_MAX = 5_000


class Store(Protocol):
    """What is needed of the database; see sender.feed.store.FeedStore."""

    async def count(self, results: Sequence[ResultRecord]) -> int: ...
    async def forget_counted(self, *, older_than_s: float, rows_max: int) -> int: ...


class Statistics:
    """
    Counts results. What concerns test recipients is left out.

    Delivery: effectively once for each event, within REMEMBERED_S.
    """

    def __init__(self, store: Store, background: Background) -> None:
        self._store = store
        background.start("forget_counted", self._forget, every_s=FORGET_INTERVAL_S)

    async def handle(self, records: Sequence[ConsumerRecord]) -> None:
        """
        Count *records*, but for those that were counted before.

        Raises:
            TransientError: it is not known whether they were counted; call again.
        """
        # Of copies the first one counts; the pipeline may have given a later one another time.
        firsts: dict[object, ResultRecord] = {}
        for each in readable(records, "statistics"):
            if not each.test:
                firsts.setdefault(each.event_id, each)
        if firsts:
            await self._store.count(list(firsts.values()))

    async def _forget(self) -> None:
        while await self._store.forget_counted(older_than_s=REMEMBERED_S, rows_max=FORGET_ROWS_MAX) == FORGET_ROWS_MAX:
            pass
