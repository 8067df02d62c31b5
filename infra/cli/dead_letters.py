"""
Dead letters as an operator handles them: read from their topic, put back on the topic they came from, or given up.

A topic forgets nothing on demand, so that one was handled is remembered in the table dead_letters_handled. That is
written after the broker has acknowledged what was put back: a death in between leaves the letter on offer, and putting
it back twice is harmless, since ids are deduplicated and the ledger judges.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import asyncpg

from infra.cli.reading import Read, TopicReader
from infra.postgres import fetch, open_pool
from infra.record_writer import Outgoing, RecordWriter
from schemas.dead_letters import Origin, put_back_headers, read_origin
from schemas.records import Header, header, timestamp
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, REQUESTED, Topic

BATCH_LETTERS_MAX = 100

# Where dead letters come from, and may go back to.
_ORIGINS: Mapping[str, Topic] = {topic.name: topic for topic in (REQUESTED, DEDUPLICATED)}

_COORDINATES = re.compile(r"p?([0-9]{1,9})@([0-9]{1,18})")

# A mark is of this very record: in a topic that was made anew the same coordinates are another one's.
_HANDLED = """
SELECT partition, "offset", written_at, action, handled_by, reason, handled_at FROM dead_letters_handled
"""

_MARK = """
INSERT INTO dead_letters_handled (partition, "offset", written_at, action, handled_by, reason)
SELECT partition, "offset", written_at, $4, $5, $6
FROM unnest($1::int[], $2::bigint[], $3::timestamptz[]) AS given (partition, "offset", written_at)
ON CONFLICT DO NOTHING
"""


class Action(StrEnum):
    """What was done about a dead letter."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Handled:
    """That somebody has dealt with a dead letter."""

    action: Action
    by: str
    reason: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """
    One dead letter.

    headers: those that have a value. origin: where it stood before; None: its headers do not say, so it is none of
    ours and cannot be put back. value_bytes: how long its value is, also where that was left out.
    """

    record: Read
    headers: tuple[Header, ...]
    origin: Origin | None
    handled: Handled | None = None
    value_bytes: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset on the topic of dead letters."""
        return self.record.partition, self.record.offset

    @property
    def written_at(self) -> datetime:
        """When it became one, by its record."""
        return datetime.fromtimestamp((self.record.timestamp_ms or 0) / 1000, UTC)

    @property
    def reason(self) -> str:
        """Its stable code."""
        return header(self.headers, "dlq-reason") or "unknown"

    def as_json(self) -> dict[str, Any]:
        """Return it for a program: without its value, its key and the headers that it came with."""
        origin, handled = self.origin, self.handled
        attempts = header(self.headers, "dlq-attempts") or ""
        return {
            "partition": self.record.partition,
            "offset": self.record.offset,
            "at": timestamp(self.written_at),
            "reason": self.reason,
            "message": header(self.headers, "dlq-message"),
            "attempts": int(attempts) if attempts.isdecimal() else None,
            "bytes": self.value_bytes,
            "original": None
            if origin is None
            else {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset},
            "handled": None
            if handled is None
            else {
                "action": handled.action,
                "by": handled.by,
                "reason": handled.reason,
                "at": timestamp(handled.at),
            },
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    Which dead letters; what is None or empty does not matter.

    places: on the topic of dead letters. since, until: when it became one. original_partition, original_offset: where
    it stood before. handled: also those that were dealt with.
    """

    places: frozenset[tuple[int, int]] = frozenset()
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    original_partition: int | None = None
    original_offset: int | None = None
    handled: bool = False

    def matches(self, letter: Letter) -> bool:
        """Tell whether *letter* is one of them."""
        origin = letter.origin
        return (
            (not self.places or letter.place in self.places)
            and self.reason in {None, letter.reason}
            and (self.since is None or letter.written_at >= self.since)
            and (self.until is None or letter.written_at < self.until)
            and (
                self.original_partition is None or (origin is not None and origin.partition == self.original_partition)
            )
            and (self.original_offset is None or (origin is not None and origin.offset == self.original_offset))
            and (self.handled or letter.handled is None)
        )

    @property
    def everything(self) -> bool:
        """Whether it leaves nothing out but what was dealt with."""
        return self == Wanted(handled=self.handled)


def read_place(text: str) -> tuple[int, int]:
    """
    Return the coordinates that *text* names, as `list` prints them: p0@912.

    Raises:
        ValueError: it names none.
    """
    found = _COORDINATES.fullmatch(text)
    if found is None:
        raise ValueError("must be coordinates on the topic of dead letters, such as p0@912")
    return int(found[1]), int(found[2])


async def handled_letters(dsn: str) -> dict[tuple[int, int, datetime], Handled]:
    """Return which dead letters were dealt with, by partition, offset and the time of their record."""
    pool = await open_pool(dsn, name="relevo-dlq", connections_max=1)
    try:
        rows = await fetch(pool, _HANDLED)
    finally:
        await pool.close()
    return {
        (row["partition"], row["offset"], row["written_at"]): Handled(
            Action(row["action"]), row["handled_by"], row["reason"], row["handled_at"]
        )
        for row in rows
    }


def read_letters(
    bootstrap: str, handled: Mapping[tuple[int, int, datetime], Handled], done: Callable[[int, int], None]
) -> Iterator[Letter]:
    """
    Yield every dead letter that there is now, in the order of the topic.

    Args:
        done: told now and then how many were read, and how many there are at most.
    Raises:
        TransientError: Kafka does not answer.
        ConfigurationError: there is no such topic.
    """
    with TopicReader(bootstrap, DEAD_LETTERS, from_start=True) as reader:
        left = {number: end for number, (first, end) in reader.bounds.items() if end > first}
        total = sum(end - first for first, end in reader.bounds.values())
        read = 0
        while left:
            for record in reader.read():
                read += 1
                if record.offset + 1 >= left.get(record.partition, 0):
                    left.pop(record.partition, None)
                yield _letter(record, handled)
            done(read, total)


def _letter(record: Read, handled: Mapping[tuple[int, int, datetime], Handled]) -> Letter:
    headers = tuple((name, value) for name, value in record.headers if value is not None)
    try:
        origin = read_origin(headers)
    except ValueError:
        origin = None
    letter = Letter(record, headers, origin, value_bytes=len(record.value or b""))
    return replace(letter, handled=handled.get((*letter.place, letter.written_at)))


def without_value(letter: Letter) -> Letter:
    """Return *letter* without its key and value, which may be large; it cannot be put back so."""
    return replace(letter, record=replace(letter.record, key=None, value=None))


def can_be_put_back(letter: Letter) -> bool:
    """Tell whether it says where it belongs, and that is a topic of ours."""
    try:
        put_back_headers(letter.record.headers)  # type: ignore[arg-type]  # a header may have no value, which it keeps
    except ValueError:
        return False
    return letter.origin is not None and letter.origin.topic in _ORIGINS


class Handling:
    """
    Puts dead letters back, and gives them up. One person's.

    Every method raises TransientError when a server is away; what was done by then stays done.
    """

    def __init__(self, pool: asyncpg.Pool, writer: RecordWriter, *, by: str) -> None:
        self._pool = pool
        self._writer = writer
        self._by = by

    async def put_back(self, letters: Sequence[Letter]) -> None:
        """
        Write *letters*, all of which can be put back, to the topics they came from, byte for byte, and mark them.

        Delivery: at least once.
        """
        by_topic: defaultdict[str, list[Outgoing]] = defaultdict(list)
        for letter in letters:
            assert letter.origin is not None, "it can be put back"
            record = letter.record
            headers: Any = put_back_headers(record.headers)  # type: ignore[arg-type]  # as in can_be_put_back
            by_topic[letter.origin.topic].append(Outgoing(record.key, record.value, headers))
        for name, records in by_topic.items():
            await self._writer.write(_ORIGINS[name], records)
        await self._mark(letters, Action.REPLAYED, None)

    async def discard(self, letters: Sequence[Letter], reason: str) -> None:
        """Mark *letters* as given up. They stay on their topic as long as it keeps them."""
        await self._mark(letters, Action.DISCARDED, reason)

    async def _mark(self, letters: Iterable[Letter], action: Action, reason: str | None) -> None:
        some = list(letters)
        places = ([letter.place[0] for letter in some], [letter.place[1] for letter in some])
        times = [letter.written_at for letter in some]
        await fetch(self._pool, _MARK, *places, times, action.value, self._by, reason)
