"""
Putting back on Kafka what waits in the ledger: what is due, by schedule or for a later attempt, and what nobody has in
hand. What ran out of time while it waited is ended.

Both go straight to notifications.deduplicated: on notifications.requested their own `done` mark would drop them.
Putting back twice is harmless, since the ledger decides; leaving one out is what must not happen.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

from aiokafka.errors import KafkaConnectionError

from infra.background import Background
from infra.logs import get_logger
from infra.metrics import PUT_BACK, UNACCOUNTED
from infra.record_writer import Outgoing
from schemas.errors import TransientError
from schemas.records import Header, encode_deduplicated, encode_forwarded
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, SENDER_GROUP, Topic
from sender.deliver import count_expired
from sender.parking import Expired, Waiting

log = get_logger()

DUE_INTERVAL_S = 0.5
DUE_ROWS_MAX = 500

RECONCILE_INTERVAL_S = 5.0
# What nobody has in hand should not exist. Should there be much of it, something is wrong that a flood makes worse.
FORGOTTEN_ROWS_MAX = 100

# Whoever took a row has this long to put it back, before another one takes it.
LEASE_S = 30.0

# What is due and on Kafka stays due in the ledger until a sender claims it, which with a slow relay and many others
# before it may take long. Every time that this has passed until then makes one copy more, which only costs room; should
# Kafka lose the record, it is also how long nobody misses it.
HOLD_S = 900.0

# The clocks of this machine, of ingest and of the database may differ by so much.
CLOCK_SKEW_S_MAX = 10.0


class ParkingPort(Protocol):
    """What is needed of the ledger; see sender.parking.Parking."""

    async def expire(self, *, rows_max: int) -> list[Expired]: ...
    async def take_due(self, *, rows_max: int, lease_s: float) -> list[Waiting]: ...
    async def take_forgotten(self, *, before: datetime, rows_max: int, lease_s: float) -> list[Waiting]: ...
    async def hold(self, put_back: Sequence[Waiting], *, hold_s: float) -> None: ...
    async def give_back(self, ids: Sequence[UUID]) -> None: ...


class WriterPort(Protocol):
    """What is needed of the producer; see infra.record_writer.RecordWriter."""

    async def write(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...


class PositionsPort(Protocol):
    """What is needed of Kafka; see infra.positions.Positions."""

    async def ends(self, topic: Topic) -> dict[int, int]: ...
    async def passed(self, group: str, topic: Topic, ends: dict[int, int]) -> bool: ...


class DueAttempts:
    """Puts back what is parked, when its time has come."""

    def __init__(self, parking: ParkingPort, writer: WriterPort, background: Background) -> None:
        self._parking = parking
        self._writer = writer
        background.start("due_attempts", self.turn, every_s=DUE_INTERVAL_S)

    async def turn(self) -> None:
        """End all that ran out of time, and put back all that is due now."""
        while expired := await self._parking.expire(rows_max=DUE_ROWS_MAX):
            count_expired(expired)
        while waiting := await self._parking.take_due(rows_max=DUE_ROWS_MAX, lease_s=LEASE_S):
            await _put_back(waiting, "due", self._parking, self._writer)
            # A death before this costs a copy when the lease ends.
            await self._parking.hold(waiting, hold_s=HOLD_S)
            log.info("due_put_back", notifications=len(waiting))


class Reconciler:
    """
    Finds accepted notifications that are in nobody's hand, and puts them back. More than none is an alert.

    How it knows: it notes where both topics end, and waits until both groups have passed there. Then everything that
    Kafka had at that moment has been worked through, and what is still open from before it (neither finished, nor
    parked, nor claimed) was lost by somebody. A long backlog or a relay that is away is no reason: then the groups
    have not passed.
    """

    def __init__(
        self, parking: ParkingPort, writer: WriterPort, positions: PositionsPort, background: Background
    ) -> None:
        self._parking = parking
        self._writer = writer
        self._positions = positions
        self._noted_at: datetime | None = None
        self._requested: dict[int, int] = {}
        self._deduplicated: dict[int, int] | None = None
        background.start("reconcile", self.turn, every_s=RECONCILE_INTERVAL_S)

    async def turn(self) -> None:
        """Go one step on: note, wait for the pipeline, wait for the senders, look."""
        if self._noted_at is None:
            noted_at = datetime.now(UTC)
            self._requested = await self._positions.ends(REQUESTED)
            self._noted_at, self._deduplicated = noted_at, None
        if self._deduplicated is None:
            if not await self._positions.passed(PIPELINE_GROUP, REQUESTED, self._requested):
                return
            # What the pipeline forwarded until now lies before here.
            self._deduplicated = await self._positions.ends(DEDUPLICATED)
        if not await self._positions.passed(SENDER_GROUP, DEDUPLICATED, self._deduplicated):
            return
        await self._look(self._noted_at - timedelta(seconds=CLOCK_SKEW_S_MAX))
        self._noted_at = None

    async def _look(self, before: datetime) -> None:
        forgotten = await self._parking.take_forgotten(before=before, rows_max=FORGOTTEN_ROWS_MAX, lease_s=LEASE_S)
        UNACCOUNTED.set(len(forgotten))
        if forgotten:
            await _put_back(forgotten, "forgotten", self._parking, self._writer)
            log.error("forgotten_put_back", notifications=len(forgotten))


async def _put_back(
    taken: Sequence[Waiting], reason: Literal["due", "forgotten"], parking: ParkingPort, writer: WriterPort
) -> None:
    """
    Write *taken* to notifications.deduplicated.

    Raises:
        TransientError: not all were acknowledged. If nothing was written, they are free again; if that is not known,
            they are when their lease ends, lest a failure that lasts fill the topic with copies.
    """
    forwarded = encode_forwarded(datetime.now(UTC))
    try:
        await writer.write(DEDUPLICATED, [_outgoing(each, forwarded) for each in taken])
    except TransientError as error:
        if _nothing_was_written(error):
            await parking.give_back([each.notification.id for each in taken])
        raise
    PUT_BACK.labels(reason).inc(len(taken))


def _nothing_was_written(error: TransientError) -> bool:
    # No connection is why a producer cannot be opened, and never the answer to a record: an idempotent producer
    # repeats what it was given until a broker has said yes or no.
    return isinstance(error.__cause__, KafkaConnectionError)


def _outgoing(waiting: Waiting, forwarded: Header) -> Outgoing:
    return Outgoing(
        *encode_deduplicated(waiting.notification, waiting.source, forwarded),
        timestamp_ms=int(waiting.accepted_at.timestamp() * 1000),
    )
