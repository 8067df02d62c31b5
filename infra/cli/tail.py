"""`relevo tail`: what happens, as it happens, read from Kafka."""

import signal
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer

from infra.cli.lines import document, ids_of, line
from infra.cli.output import AsJson, print_json, print_line, say
from infra.cli.reading import Read, TopicReader
from infra.cli.where import find_place
from schemas.states import State
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, REQUESTED, RESULTS

TOPIC_BY_NAME = {"results": RESULTS, "requested": REQUESTED, "deduplicated": DEDUPLICATED, "dlq": DEAD_LETTERS}


class TailTopic(StrEnum):
    """The topics by their short names."""

    RESULTS = "results"
    REQUESTED = "requested"
    DEDUPLICATED = "deduplicated"
    DLQ = "dlq"


def tail(
    *,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest record there is.")] = False,
    notification_id: Annotated[UUID | None, typer.Option("--id", help="Only what concerns this id.")] = None,
    status: Annotated[State | None, typer.Option(help="Only results with this status.")] = None,
    topic: Annotated[TailTopic, typer.Option(help="Which topic.")] = TailTopic.RESULTS,
    count: Annotated[int | None, typer.Option("-n", min=1, help="End after so many records.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Follow what happens to notifications, one line for each change: time, id, status, attempt, reason, duration.

    Ctrl-C ends it. With --json, results stand as they are on the topic, records of other topics with their
    coordinates and headers. Those hold addresses and texts; the lines without --json do not.
    """
    if status is not None and topic is not TailTopic.RESULTS:
        raise typer.BadParameter("only results have a status", param_hint="--status")
    place = find_place()
    wanted = matcher(str(notification_id) if notification_id else None, status)
    # Ended from outside is ended as well as by Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with TopicReader(place.settings.kafka_bootstrap, TOPIC_BY_NAME[topic], from_start=from_start) as reader:
            say(f"Following {TOPIC_BY_NAME[topic].name}; Ctrl-C ends it.")
            _follow(reader, wanted, (lambda each: print_json(document(each))) if as_json else _print_line, count)
    except KeyboardInterrupt:
        return


def matcher(notification_id: str | None, status: State | None) -> Callable[[Read], bool]:
    """Return whether a record is wanted; None means that any will do."""

    def wanted(record: Read) -> bool:
        if notification_id is not None and notification_id not in ids_of(record):
            return False
        if status is None:
            return True
        parsed: Any = record.parsed()
        return isinstance(parsed, dict) and parsed.get("status") == status

    return wanted


def _follow(
    reader: TopicReader, wanted: Callable[[Read], bool], show: Callable[[Read], None], count: int | None
) -> None:
    shown = 0
    while True:
        for record in reader.read():
            if wanted(record):
                show(record)
                shown += 1
                if shown == count:
                    return


def _print_line(record: Read) -> None:
    parsed = record.parsed()
    print_line(line(record), parsed.get("status") if isinstance(parsed, dict) else None)
