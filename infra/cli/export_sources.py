"""
Where an export takes its rows from: every event on notifications.results, or every notification of the ledger.

In bounded memory, however many there are: what must be remembered to fold copies away stands in a temporary database on
disk.
"""

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import asyncpg

from infra.cli.export_columns import Row, row_of, value_of
from infra.cli.reading import Read, TopicReader
from infra.postgres import fetch, open_pool
from infra.telemetry import trace_id_of
from schemas import results
from schemas.errors import TransientError
from schemas.messages import Reason, Source
from schemas.records import encode_result
from schemas.states import State
from schemas.topics import RESULTS

ROWS_MAX = 5_000

# A topic that has more, and gives nothing for so long, will not be read to its end.
SILENT_S_MAX = 30.0

Done = Callable[[int, int | None], None]


class TopicSource:
    """
    Every event of notifications.results from its first until where the topic ended at the beginning, each once.

    read: records so far; unreadable: those of them that are no results.
    """

    def __init__(self, bootstrap: str, *, latest: bool) -> None:
        self._bootstrap = bootstrap
        self._latest = latest
        self.read = 0
        self.unreadable = 0

    def rows(self, done: Done) -> Iterator[list[Row]]:
        """
        Yield rows in the order of their partitions; with *latest* the last event of each notification, in no order.

        Args:
            done: told how many records were read, and of how many.
        Raises:
            TransientError: Kafka does not answer, or gives nothing more.
            ConfigurationError: there is no such topic.
        """
        with TemporaryDirectory(prefix="relevo-export-") as folder, closing(_Memory(Path(folder))) as memory:
            for records in self._records(done):
                read = [(row, record.value) for record in records if (row := self._row(record)) is not None]
                if self._latest:
                    memory.keep_latest(read)
                else:
                    yield memory.firsts([row for row, _ in read])
            if self._latest:
                yield from memory.latest()

    def _records(self, done: Done) -> Iterator[list[Read]]:
        with TopicReader(self._bootstrap, RESULTS, from_start=True) as reader:
            left = {partition: end for partition, (first, end) in reader.bounds.items() if end > first}
            total = sum(end - first for first, end in reader.bounds.values())
            heard_s = time.monotonic()
            while left:
                records = [each for each in reader.read() if each.offset < left.get(each.partition, 0)]
                if records:
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > SILENT_S_MAX:
                    raise TransientError(f"{RESULTS.name} cannot be read to its end: Kafka gives nothing more")
                for each in records:
                    if each.offset + 1 >= left[each.partition]:
                        del left[each.partition]
                self.read += len(records)
                done(self.read, total)
                yield records

    def _row(self, record: Read) -> Row | None:
        try:
            return row_of(record.value)
        except ValueError:
            self.unreadable += 1
            return None


class _Memory:
    """Which events were seen, or the last one of each notification, in a database of this run alone."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "seen.sqlite", isolation_level=None)
        # Nobody needs it after a crash.
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("CREATE TABLE seen (event_id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("CREATE TABLE latest (id BLOB PRIMARY KEY, seq INTEGER, value BLOB) WITHOUT ROWID")

    def close(self) -> None:
        self._database.close()

    def firsts(self, rows: Sequence[Row]) -> list[Row]:
        """Return those of *rows* whose event was not seen before."""
        self._database.execute("BEGIN")
        found = [
            row
            for row in rows
            if self._database.execute(
                "INSERT OR IGNORE INTO seen VALUES (?)", (_key(value_of(row, "event_id")),)
            ).rowcount
        ]
        self._database.execute("COMMIT")
        return found

    def keep_latest(self, read: Sequence[tuple[Row, bytes | None]]) -> None:
        """Keep the event with the highest number of each notification. A rejection (0) is none of them."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO latest VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET seq = excluded.seq, value = excluded.value WHERE excluded.seq > latest.seq",
            [
                (_key(value_of(row, "id")), value_of(row, "seq"), value)
                for row, value in read
                if value_of(row, "seq") > 0 and value_of(row, "id") is not None
            ],
        )
        self._database.execute("COMMIT")

    def latest(self) -> Iterator[list[Row]]:
        kept = self._database.execute("SELECT value FROM latest")
        while some := kept.fetchmany(ROWS_MAX):
            yield [row_of(value) for (value,) in some]


def _key(identity: str) -> bytes:
    # Half as long as the text; what is no UUID is kept as it is.
    try:
        return UUID(identity).bytes
    except ValueError:
        return identity.encode()


# Page by page in the order of the primary key: no statement is long, and none keeps old versions of rows alive. What is
# not wanted is left out behind the page, so that a page costs the same whatever is asked for.
_PAGE = """
SELECT n.id, n.seq, n.state, n.attempt, n.channel, n.door, n.source_partition, n.source_offset, n.source_index,
    n.recipient_hash, n.accepted_at, n.traceparent, n.metadata, n.producer, n.replay_of, n.test,
    e.reason_class, e.reason_code, e.smtp, e.occurred_at
FROM (SELECT * FROM notifications WHERE id > $1 ORDER BY id LIMIT $2) AS n
LEFT JOIN events AS e ON e.notification_id = n.id AND e.seq = n.seq
ORDER BY n.id
"""

_ABOUT = "SELECT greatest(reltuples, 0)::bigint AS rows FROM pg_class WHERE oid = 'notifications'::regclass"

_FIRST = UUID(int=0)


class LedgerSource:
    """Every notification with its latest state, as a result would tell of it. Of the ledger's facts alone."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.read = 0

    async def rows(self, done: Done) -> AsyncIterator[list[Row]]:
        """
        Yield rows in the order of their ids.

        Args:
            done: told how many notifications were read, and of about how many; None: the server has not counted yet.
        Raises:
            TransientError: the server is away or slow.
        """
        pool = await open_pool(self._dsn, name="relevo-export", connections_max=1)
        try:
            about = (await fetch(pool, _ABOUT))[0]["rows"] or None
            last = _FIRST
            while page := await fetch(pool, _PAGE, last, ROWS_MAX):
                last = page[-1]["id"]
                self.read += len(page)
                done(self.read, None if about is None else max(about, self.read))
                yield [_ledger_row(row) for row in page]
        finally:
            await pool.close()


def _ledger_row(row: asyncpg.Record) -> Row:
    source = None
    if row["source_offset"] is not None:
        source = Source(row["door"], row["source_partition"], row["source_offset"], row["source_index"])
    reason = None
    if row["reason_class"] is not None:
        reason = Reason(row["reason_class"], row["reason_code"], row["smtp"])
    return row_of(
        encode_result(
            results.change(
                id=row["id"],
                seq=row["seq"],
                status=State(row["state"]),
                reason=reason,
                attempt=row["attempt"],
                channel=row["channel"],
                source=source,
                recipient_hash=row["recipient_hash"],
                accepted_at=row["accepted_at"],
                # That it is queued has no event of its own in the ledger.
                occurred_at=row["occurred_at"] or row["accepted_at"],
                trace_id=trace_id_of(row["traceparent"]),
                metadata=row["metadata"],
                producer=row["producer"],
                replay_of=row["replay_of"],
                test=row["test"],
            )
        )
    )


def wanted(
    *, since: datetime | None, until: datetime | None, status: str | None, producer: str | None
) -> Callable[[Row], Any]:
    """Return whether a row is asked for: of occurred_at *since* is within and *until* is not; None: no matter."""

    def is_wanted(row: Row) -> bool:
        at = value_of(row, "occurred_at")
        return (
            (since is None or at >= since)
            and (until is None or at < until)
            and (status is None or value_of(row, "status") == status)
            and (producer is None or value_of(row, "producer") == producer)
        )

    return is_wanted
