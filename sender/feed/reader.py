"""
Reading notifications.results, batch by batch: a consumer that commits what was handled, and never less than that.

Each reader has a group of its own, so that none of them slows another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from infra.background import Background
from infra.failpoints import hit
from infra.health import Readiness
from infra.kafka import TRANSIENT, start_consumer
from infra.logs import get_logger
from infra.metrics import FEED_LAG, FEED_RESULTS
from infra.patience import until_through
from schemas.errors import TransientError
from schemas.topics import RESULTS

log = get_logger()

BATCH_ROWS_MAX = 500
POLL_MS = 1_000  # what comes is handed over at once; so long may it take to see that this process is to stop
LAG_INTERVAL_S = 5.0

# How long a batch in hand may hold up a rebalance; below the group's rebalance timeout.
REVOKE_S_MAX = 10.0

Handle = Callable[[Sequence[ConsumerRecord]], Awaitable[None]]


class ResultsReader(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """
    Has each result handled, in the order of its partition.

    Delivery: at least once. What was handled and not committed comes again after a crash or a rebalance. Between the
    two, two processes may have the same record in hand, unless a process that is asked for its partitions ends its
    batch within REVOKE_S_MAX.
    While a server is away it waits. When that takes longer than the five minutes after which a group gives up a silent
    member, the partitions come back with the next poll.
    Args:
        group: the consumer group; the reader is called as its last word.
        name: of this client; with *static*, the stable name under which its partitions are taken back at once.
        handle: given up to BATCH_ROWS_MAX records. It may be called with the same ones again, as a whole. What it
            cannot read it passes over (see sender.feed.results.read_result). TransientError: it is called again. Any
            other error is a bug of ours: readiness turns red and it is called again, because passing over what
            nobody handled would lose it.
    """

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        name: str,
        handle: Handle,
        readiness: Readiness,
        background: Background,
        static: bool,
    ) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._name = name
        self._handle = handle
        self._readiness = readiness
        self._background = background
        self._static = static
        self._called = group.rpartition(".")[2]
        self._consumer: AIOKafkaConsumer | None = None
        self._busy = asyncio.Lock()
        self._next: dict[TopicPartition, int] = {}
        # Where commits that were refused would have set the partitions that are ours.
        self._refused: dict[TopicPartition, int] = {}
        readiness.red(self._called, "no partition assigned yet")

    async def run(self, stop: asyncio.Event) -> None:
        """
        Read until *stop*, then end the batch in hand.

        Raises:
            TransientError: Kafka could not be reached before *stop*.
            KafkaError: of a kind that another poll does not mend.
        """
        consumer = await until_through(
            "kafka",
            lambda: start_consumer(self._bootstrap, group=self._group, name=self._name, static=self._static),
            give_up=stop.is_set,
        )
        self._consumer = consumer
        consumer.subscribe([RESULTS.name], listener=self)
        self._background.start(f"lag_{self._called}", self._tell_lag, every_s=LAG_INTERVAL_S)
        try:
            while not stop.is_set():
                fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_ROWS_MAX)
                if fetched and not await self._take(consumer, fetched, stop):
                    return
                if self._refused:
                    async with self._busy:
                        await self._commit(consumer, {})
        finally:
            await consumer.stop()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Let the batch in hand come to its end: two owners at work on one partition are the exception then."""
        try:
            async with asyncio.timeout(REVOKE_S_MAX), self._busy:
                pass
        except TimeoutError:
            log.warning("batch_not_ended", reader=self._called)
        for each in revoked:
            self._next.pop(each, None)
            self._refused.pop(each, None)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Note what is ours now."""
        log.info("partitions_assigned", reader=self._called, partitions=sorted(tp.partition for tp in assigned))
        self._readiness.green(self._called)

    async def _take(
        self, consumer: AIOKafkaConsumer, fetched: dict[TopicPartition, list[ConsumerRecord]], stop: asyncio.Event
    ) -> bool:
        """Have them handled, and commit; False: given up because of *stop*."""
        records = [record for of_partition in fetched.values() for record in of_partition]
        for tp, of_partition in fetched.items():
            # The consumer counts what it has handed to us as read.
            self._next.setdefault(tp, of_partition[0].offset)
        async with self._busy:
            try:
                await until_through(
                    self._called, lambda: self._call(records), on_failure=self._tell_failure, give_up=stop.is_set
                )
            except TransientError:
                return False
            self._readiness.green(self._called)
            FEED_RESULTS.labels(self._called).inc(len(records))
            hit("feed.before_commit")
            ends = {tp: of_partition[-1].offset + 1 for tp, of_partition in fetched.items()}
            await self._commit(consumer, ends)
        return True

    async def _call(self, records: Sequence[ConsumerRecord]) -> None:
        try:
            await self._handle(records)
        except TransientError:
            raise
        except Exception as error:
            log.exception("results_broke", reader=self._called)
            raise TransientError(f"a bug of ours: {type(error).__name__}; see the log") from error

    def _tell_failure(self, error: TransientError) -> None:
        self._readiness.red(self._called, str(error))

    async def _commit(self, consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> None:
        """Commit *ends*, and what was refused before, of the partitions that are ours."""
        ours = {tp: offset for tp, offset in (self._refused | ends).items() if tp in consumer.assignment()}
        self._next |= ours
        before, self._refused = self._refused, {}
        if not ours:
            return
        try:
            await consumer.commit(ours)
        except KafkaError as error:
            # Ordinary during a rebalance: what is read again is handled again. And a partition that is quiet from now
            # on must be committed all the same, or its lag would stand still for ever.
            self._refused = {tp: offset for tp, offset in ours.items() if tp in consumer.assignment()}
            if not before:
                log.warning("commit_refused", reader=self._called, error=type(error).__name__, partitions=len(ours))

    async def _tell_lag(self) -> None:
        """Say how many results wait: by what the broker says of the ends, and what we handled."""
        consumer = self._consumer
        if consumer is None:
            return
        try:
            ends = await consumer.end_offsets(consumer.assignment()) if consumer.assignment() else {}
            lag = 0
            for tp, end in ends.items():
                if tp in consumer.assignment():
                    lag += max(0, end - self._next.get(tp, await consumer.position(tp)))
        except TRANSIENT as error:
            raise TransientError(f"Kafka: {type(error).__name__}") from error
        FEED_LAG.labels(self._called).set(lag)
