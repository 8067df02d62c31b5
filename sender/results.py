"""Publishing what happened: each change goes to notifications.results, and the ledger notes that it did."""

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.trace import SpanKind

from infra.background import Background
from infra.batching import Batcher
from infra.logs import get_logger
from infra.metrics import RESULTS_PUBLISHED
from infra.record_writer import Outgoing
from infra.telemetry import messaging, read_traceparent, start_span, trace_id_of, traceparent_of
from schemas import results, topics
from schemas.errors import TransientError
from schemas.messages import Result
from schemas.records import encode_result_record
from schemas.states import State
from schemas.topics import Topic
from sender.changes import Unpublished
from sender.ledger import Ledger

log = get_logger()

RESULT_ROWS_MAX = 500

# Nobody waits for a result by the millisecond, and the broker's work is per request, whatever is inside.
LINGER_S = 0.02

# Older than this, whoever was about to publish it is gone.
SWEEP_AFTER_S = 5.0
SWEEP_INTERVAL_S = 2.0


class Writer(Protocol):
    """What is needed of the producer; see infra.record_writer.RecordWriter."""

    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...


class ResultPublisher:
    """
    Publishes changes of state, in batches, and sweeps up those that a dead process left unpublished.

    Delivery: at least once; copies have the same event_id. Order: for one id, that of its changes, unless the sweep
    had to step in: then seq tells.
    """

    def __init__(self, writer: Writer, ledger: Ledger, background: Background) -> None:
        self._writer = writer
        self._ledger = ledger
        background.start("publish_left_behind", self._sweep, every_s=SWEEP_INTERVAL_S)
        self._batcher: Batcher[Unpublished, None] = Batcher(
            self._publish_batch, rows_max=RESULT_ROWS_MAX, writers=2, linger_s=LINGER_S
        )

    async def publish(self, change: Unpublished) -> None:
        """
        Publish one change; returns when the broker has it.

        Raises:
            TransientError: it may have it or not; call again, or leave it to the sweep.
        """
        await self._batcher.submit(change)

    async def _publish_batch(self, changes: list[Unpublished]) -> list[None]:
        await self._write(changes, "direct")
        log.info("results_published", results=len(changes), sent=sum(each.state is State.SENT for each in changes))
        return [None] * len(changes)

    async def _write(self, changes: list[Unpublished], path: str) -> None:
        await self._writer.write_by_key(topics.RESULTS, [_outgoing(change) for change in changes])
        RESULTS_PUBLISHED.labels(path).inc(len(changes))
        try:
            await self._ledger.mark_published([(change.id, change.seq) for change in changes])
        except TransientError:
            # The sweep will publish them once more: a copy, which folds away by its event_id.
            log.warning("published_events_not_marked", events=len(changes))

    async def _sweep(self) -> None:
        while found := await self._ledger.unpublished(older_than_s=SWEEP_AFTER_S, rows_max=RESULT_ROWS_MAX):
            await self._write(found, "sweep")
            log.info("events_swept", events=len(found))


def _outgoing(change: Unpublished) -> Outgoing:
    return Outgoing(*encode_result_record(result_of(change), _traced(change)))


def result_of(change: Unpublished) -> Result:
    """Return the result that tells of *change*."""
    return results.change(
        id=change.id,
        seq=change.seq,
        status=change.state,
        reason=change.reason,
        attempt=change.attempt,
        channel=change.channel,
        source=change.source,
        recipient_hash=change.recipient_hash,
        accepted_at=change.accepted_at,
        occurred_at=change.occurred_at,
        trace_id=trace_id_of(change.traceparent),
        metadata=change.metadata,
        producer=change.producer,
        replay_of=change.replay_of,
        test=change.test,
    )


def _traced(change: Unpublished) -> str | None:
    context = read_traceparent(change.traceparent)
    if context is None:
        return None
    traceparent = change.traceparent
    if context.trace_flags.sampled:
        span = start_span(
            f"send {topics.RESULTS.name}",
            SpanKind.PRODUCER,
            parent=traceparent,
            attributes=messaging("send", topics.RESULTS.name, message__id=str(change.id)),
        )
        span.set_attribute("relevo.status", change.state.value)
        span.end()
        traceparent = traceparent_of(span)
    return traceparent
