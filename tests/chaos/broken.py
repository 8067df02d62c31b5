"""
`python -m tests.chaos.broken VARIANT[,VARIANT...] SERVICE`: a service with one deliberately broken behaviour.

A checker that has never failed proves nothing; against these it must. Each variant is one of the mistakes that this
design exists to avoid, patched in before the service starts; nothing of it is in the services themselves.
"""

import asyncio
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.processes import ROOT, ServiceProcess

# Between an effect that comes too early and the one that should have come first: time to die in.
WINDOW_S = 3.0


class BrokenProcess(ServiceProcess):
    """A service that starts with *variants*, separated by commas; none: as it is, with other settings."""

    def __init__(self, variants: str, like: ServiceProcess, **settings: str) -> None:
        super().__init__(like.module, like.environment | settings, like.log)
        self._variants = variants

    def spawn(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.broken", self._variants, self.module],
                cwd=ROOT,
                env=inherited | self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )


def drop_on_claim() -> None:
    """The pipeline takes an id that is only claimed for one that was forwarded."""
    from pipeline import dedupe
    from pipeline.table import Answer

    dedupe.DROPPED = frozenset(Answer) - {Answer.NEW}


def mark_early() -> None:
    """Ingest marks rows as published before the broker has acknowledged them."""
    from ingest.accept import Accepted
    from ingest.relay import Broker, Marker, Relay
    from ingest.store import Published

    class Early:
        def __init__(self, broker: Broker, marker: Marker) -> None:
            self._broker, self._marker = broker, marker

        async def publish(self, rows: Sequence[Accepted]) -> list[Published]:
            moment = datetime.now(UTC)
            early = [Published(row.notification.id, moment, 0, 0, index) for index, row in enumerate(rows)]
            await self._marker.mark(early, path="fast")
            return await self._broker.publish(rows)

    original = Relay.__init__

    def begin(self: Relay, broker: Broker, marker: Marker) -> None:
        original(self, Early(broker, marker), marker)

    Relay.__init__ = begin


def commit_highest() -> None:
    """The sender commits the highest completed offset of a partition, whatever is still open below it."""
    from sender.watermark import Watermark

    def complete(self: Watermark, partition: int, offset: int) -> None:
        state = self._partitions.get(partition)
        if state is not None:
            state.committable = max(offset + 1, state.committable or 0)

    Watermark.complete = complete


def slow_dedupe() -> None:
    """Not broken: the pipeline takes its time with each batch."""
    from pipeline.dedupe import Deduplicator

    original = Deduplicator.process

    async def process(self: Deduplicator, records: Any) -> None:
        await asyncio.sleep(WINDOW_S)
        await original(self, records)

    Deduplicator.process = process


def acknowledge_first() -> None:
    """The agent acknowledges an event before it is processed: what concurrency above 1 does to the events behind."""
    from pipeline.agent import Batches

    original = Batches.put

    class Deaf:
        async def ack(self, event: object) -> None:
            """It was done before."""

    async def put(self: Batches, stream: Any, event: Any) -> None:
        await stream.ack(event)
        await original(self, Deaf(), event)

    Batches.put = put


def no_claim() -> None:
    """The sender sends without having claimed, and writes its outcome over whatever is there."""
    from sender.ledger import Ledger, Outcome

    original = Ledger.record

    async def claim(_self: Ledger, _notification_id: object, _attempt: int, _forward: object = None) -> bool:
        return True

    async def record(self: Ledger, outcome: Outcome) -> int | None:
        return await original(self, replace(outcome, claimed=False))

    Ledger.claim = claim
    Ledger.record = record


def complete_first() -> None:
    """The sender lets an offset be committed before its notification has an outcome."""
    from sender.consumer import DeduplicatedConsumer

    original = DeduplicatedConsumer._deliver

    async def deliver(self: DeduplicatedConsumer, record: Any, delivery: Any) -> None:
        self._watermark.complete(record.partition, record.offset)
        await original(self, record, delivery)

    DeduplicatedConsumer._deliver = deliver


def retry_doubt() -> None:
    """The sender takes silence after the final dot for a passing failure, and sends again."""
    from sender import transaction
    from sender.replies import Judgement, Phase, Verdict, judge_silence

    def judge(phase: Phase, code: str) -> Judgement:
        return Judgement(Verdict.TRANSIENT, code) if phase is Phase.DOT else judge_silence(phase, code)

    transaction.judge_silence = judge


def no_reconciler() -> None:
    """Nobody looks for what is in nobody's hand. It would mend what some variants break, and hide that they do."""
    from sender.putting_back import Reconciler

    async def turn(_self: Reconciler) -> None:
        """Look at nothing."""

    Reconciler.turn = turn


VARIANTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        *(drop_on_claim, mark_early, commit_highest, slow_dedupe, acknowledge_first, no_claim, complete_first),
        *(retry_doubt, no_reconciler),
    )
}


def main() -> None:
    variants, service = sys.argv[1:]
    for variant in filter(None, variants.split(",")):
        VARIANTS[variant]()
    sys.argv = [service]
    runpy.run_module(service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
