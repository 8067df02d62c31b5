"""The work on orders to replay: batch by batch, by whichever process is free, beside accepting."""

from typing import Protocol

from infra.logs import get_logger
from infra.metrics import REPLAYED
from ingest.replay_batch import Advance
from ingest.sweep import Gate

INTERVAL_S = 0.5

log = get_logger()


class Orders(Protocol):
    """The orders that run."""

    async def advance(self) -> Advance | None:
        """Do one batch of an order that is due; None: none is."""


class ReplayWork:
    """
    Works on orders. Any number of processes may; each batch is done by one of them.

    Delivery: a notification that a batch has made is durable, and as good as accepted.
    """

    def __init__(self, orders: Orders, gate: Gate) -> None:
        self._orders = orders
        self._gate = gate

    async def turn(self) -> None:
        """
        Do all batches that are due.

        What has no room in the outbox waits, as new requests do.
        Raises:
            TransientError: the ledger is away.
        """
        while not self._gate.full:
            done = await self._orders.advance()
            if done is None:
                return
            REPLAYED.labels("replayed").inc(done.replayed)
            for reason, count in done.skipped.items():
                REPLAYED.labels(reason).inc(count)
            log.info(
                "replay_advanced",
                order=str(done.order),
                replayed=done.replayed,
                skipped=dict(done.skipped),
                done=done.done,
            )
