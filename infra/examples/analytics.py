"""
An analytics consumer: how many notifications reached which status in which hour.

`python -m infra.examples.analytics [--follow] [--json]`

It reads notifications.results from offset 0 in a consumer group of its own and knows nothing else of relevo. That is
enough to rebuild the state of every notification: of the results with the same id the one with the highest seq is its
state, and a copy has the event_id, and so the seq, of the first. Rejections (seq 0) are records that never became a
notification; they are counted apart, each event_id once. What went to the simulator (test) is left out.

It commits no offset and keeps nothing, so each run begins at the start. One that keeps its counts would commit with
them, in one transaction of its own database.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
import typer
from aiokafka import AIOKafkaConsumer
from rich.console import Console
from rich.table import Table

from infra.cli.output import EXIT_CODES_TEXT, AsJson, print_json, run
from infra.cli.where import find_place
from infra.kafka import TRANSIENT, require_topics, start_consumer
from schemas.errors import TransientError
from schemas.records import RESULT_SCHEMA
from schemas.topics import RESULTS

GROUP = "relevo.example.analytics"

_READ_MS_MAX = 300
_SHOW_EVERY_S = 1.0
_HOUR_CHARS = len("2026-01-31T09")


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest that is known of one notification."""

    seq: int
    status: str
    hour: str


@dataclass(slots=True)
class Fold:
    """
    The results, folded: in any order, with any copies, the same results give the same fold.

    latest: by id. rejected: by event_id, the hour. unreadable: records that hold no result that we understand; they
    are counted and passed over, so that a newer relevo does not stop us.
    """

    latest: dict[str, Latest] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0

    def add(self, value: bytes | None) -> None:
        """Take in one record."""
        try:
            result = orjson.loads(value or b"")
            name, _, version = result["schema"].rpartition("/")
            if f"{name}/{version.split('.')[0]}" != RESULT_SCHEMA:
                raise ValueError("another topic's record, or another major version")
            if result.get("test") is True:
                return
            seq, hour = int(result["seq"]), str(result["occurred_at"])[:_HOUR_CHARS]
            if seq == 0:
                self.rejected[str(result["event_id"])] = hour
                return
            notification_id, new = str(result["id"]), Latest(seq, str(result["status"]), hour)
        except (ValueError, TypeError, KeyError, AttributeError):
            self.unreadable += 1
            return
        # A copy has the seq of the first, and one that was overtaken a lower one: neither says anything new.
        known = self.latest.get(notification_id)
        if known is None or new.seq > known.seq:
            self.latest[notification_id] = new

    def by_hour(self) -> dict[str, Counter[str]]:
        """Return for each hour (of the change that led there) how many notifications are in which status."""
        hours: dict[str, Counter[str]] = {}
        for each in self.latest.values():
            hours.setdefault(each.hour, Counter())[each.status] += 1
        for hour in self.rejected.values():
            hours.setdefault(hour, Counter())["rejected"] += 1
        return dict(sorted(hours.items()))

    def as_json(self) -> dict[str, Any]:
        """Return the counts for programs."""
        hours = self.by_hour().items()
        return {
            "notifications": len(self.latest),
            "rejected": len(self.rejected),
            "unreadable": self.unreadable,
            "hours": [{"hour": f"{hour}:00Z", "counts": dict(sorted(counts.items()))} for hour, counts in hours],
        }


async def read_results(bootstrap: str, group: str, *, follow: bool) -> AsyncIterator[list[bytes | None]]:
    """
    Yield the values on notifications.results from the first on, as they come, perhaps none.

    Args:
        follow: go on for ever; otherwise end where the topic ended when the partitions were assigned.
    Raises:
        TransientError: Kafka cannot be reached.
        ConfigurationError: there is no such topic.
    """
    await require_topics(bootstrap)
    consumer = await start_consumer(bootstrap, group=group, name=group, static=False)
    try:
        consumer.subscribe([RESULTS.name])
        ends: dict[Any, int] | None = None
        while True:
            found = await consumer.getmany(timeout_ms=_READ_MS_MAX, max_records=1000)
            yield [record.value for records in found.values() for record in records]
            if not follow and consumer.assignment():
                ends = await consumer.end_offsets(consumer.assignment()) if ends is None else ends
                if await _is_at(consumer, ends):
                    return
    except TRANSIENT as error:
        raise TransientError(f"Kafka: {type(error).__name__}") from error
    finally:
        await consumer.stop()


async def _is_at(consumer: AIOKafkaConsumer, ends: dict[Any, int]) -> bool:
    # What another member of the group took over in the meantime is its to read.
    return all([await consumer.position(each) >= end for each, end in ends.items() if each in consumer.assignment()])


def analytics(
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Go on at the end of the topic; Ctrl-C ends it.")] = False,
    group: Annotated[str, typer.Option(help="Name of the consumer group.")] = GROUP,
    as_json: AsJson = False,
) -> None:
    """
    Count notifications per status and hour, from all that notifications.results holds.

    With --follow and --json, one object per line, whenever something changed.
    """
    bootstrap = find_place().settings.kafka_bootstrap
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_count(bootstrap, group, follow=follow, as_json=as_json))
    except KeyboardInterrupt:
        return


async def _count(bootstrap: str, group: str, *, follow: bool, as_json: bool) -> None:
    fold, shown_s, changed = Fold(), 0.0, True
    async for values in read_results(bootstrap, group, follow=follow):
        for value in values:
            fold.add(value)
        changed = changed or bool(values)
        if follow and changed and time.monotonic() - shown_s > _SHOW_EVERY_S:
            _show(fold, as_json=as_json)
            shown_s, changed = time.monotonic(), False
    _show(fold, as_json=as_json)


def _show(fold: Fold, *, as_json: bool) -> None:
    if as_json:
        print_json(fold.as_json())
        return
    hours = fold.by_hour()
    statuses = sorted({status for counts in hours.values() for status in counts})
    table = Table("hour (UTC)", *statuses, box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for hour, counts in hours.items():
        table.add_row(f"{hour}:00", *(str(counts[status] or "") for status in statuses))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)
    console.print(_total(fold))


def _total(fold: Fold) -> str:
    parts: Iterable[tuple[int, str]] = (
        (len(fold.latest), "notifications"),
        (len(fold.rejected), "rejected records"),
        (fold.unreadable, "unreadable"),
    )
    return ", ".join(f"{count} {what}" for count, what in parts)


def main() -> int:
    """Run the example."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EXIT_CODES_TEXT)(analytics)
    return run(app, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
