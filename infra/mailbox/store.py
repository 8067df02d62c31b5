"""
The mails that were kept: their bytes in one file, a line of JSON about each in another, and in memory their keys.

    mails.raw     the mails as they came, one after the other
    mails.jsonl   one line each: where it lies in mails.raw, and what a list shows of it

A line is written after the mail that it speaks of. Whoever dies in between leaves bytes that no line knows; the next
start cuts them off.
"""

import fcntl
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import orjson

from infra.mailbox.append_file import AppendFile
from infra.mailbox.head import clean, decode_field, read_head
from schemas.errors import ConfigurationError

# About 500 bytes of memory each. Beyond, mails are refused for a passing reason, never silently forgotten.
MAILS_MAX = 1_000_000


class StoreFullError(Exception):
    """MAILS_MAX mails are kept; emptying the mailbox makes room."""


class _Entry(NamedTuple):
    """What stays in memory of one mail."""

    offset: int
    size_bytes: int
    line_offset: int
    line_bytes: int
    message_id: str | None
    notification_id: str | None
    rcpt_to: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a list shows of a mail.

    n: its number. mail_from, rcpt_to: of the envelope. message_id, notification_id, subject: of its header fields
    Message-ID, X-Notification-Id and Subject, which may not be there. received_at: ISO 8601, UTC, milliseconds.
    """

    n: int
    message_id: str | None
    notification_id: str | None
    mail_from: str
    rcpt_to: list[str]
    subject: str
    received_at: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Query:
    """
    Which mails; a mail matches when all that is given does.

    to: a whole address of the envelope. search: a part of one, or of the notification id. Capitals do not matter to
        either.
    message_id: with or without the angle brackets.
    limit: at most so many, the newest; 1 and more.
    """

    to: str | None = None
    search: str | None = None
    message_id: str | None = None
    notification_id: str | None = None
    limit: int = 100

    def matches(self, entry: _Entry) -> bool:
        """Tell whether a mail is meant."""
        if self.notification_id is not None and entry.notification_id != self.notification_id:
            return False
        if self.message_id is not None and entry.message_id not in {self.message_id, f"<{self.message_id}>"}:
            return False
        if self.to is not None and not any(self.to.lower() == address.lower() for address in entry.rcpt_to):
            return False
        if self.search is None:
            return True
        return any(self.search.lower() in text.lower() for text in (*entry.rcpt_to, entry.notification_id or ""))


class MailStore:
    """The kept mails, numbered from 1 in the order in which they came. For one process and one thread."""

    def __init__(self, folder: Path) -> None:
        """
        Open the store in *folder*; make it when it is not there, and find again what was kept in it.

        Raises:
            OSError: the folder cannot be used.
            ConfigurationError: another mailbox uses it, or what lies there was not written by one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: list[_Entry] = []
        self._raw = AppendFile(folder / "mails.raw")
        self._index = AppendFile(folder / "mails.jsonl")
        try:
            self._lock(folder)
            self._load(folder / "mails.jsonl")
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return how many mails are kept."""
        return len(self._entries)

    def append(self, mail_from: str, rcpt_to: list[str], mail: bytes) -> int:
        """
        Keep a mail. When this returns, a death of the process no longer loses it.

        Returns:
            Its number.
        Raises:
            StoreFullError: there are MAILS_MAX.
            OSError: it could not be written; nothing was kept.
        """
        if len(self._entries) >= MAILS_MAX:
            raise StoreFullError
        head = read_head(mail)
        recipients = [clean(address) for address in rcpt_to]
        offset = self._raw.append(mail)
        line = orjson.dumps(
            {
                "offset": offset,
                "message_id": head.message_id,
                "notification_id": head.notification_id,
                "mail_from": clean(mail_from),
                "rcpt_to": recipients,
                "subject": head.subject,
                "received_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "size_bytes": len(mail),
                "sha256": hashlib.sha256(mail).hexdigest(),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        try:
            line_offset = self._index.append(line)
        except OSError:
            self._raw.truncate(offset)
            raise
        keys = (head.message_id, head.notification_id, tuple(recipients))
        self._entries.append(_Entry(offset, len(mail), line_offset, len(line), *keys))
        return len(self._entries)

    def find(self, query: Query) -> list[Summary]:
        """Return summaries, the newest first."""
        return [self._summary(n) for n in self._newest(query)]

    def summary(self, n: int) -> Summary | None:
        """Return what a list shows of mail *n*; None when there is no such."""
        return self._summary(n) if 1 <= n <= len(self._entries) else None

    def raw(self, n: int) -> bytes | None:
        """Return mail *n* as it came; None when there is no such."""
        if not 1 <= n <= len(self._entries):
            return None
        entry = self._entries[n - 1]
        return self._raw.read(entry.offset, entry.size_bytes)

    def counts(self) -> dict[str, int]:
        """Count the mails of each notification id; under "" those that have none."""
        return Counter(entry.notification_id or "" for entry in self._entries)

    def clear(self) -> int:
        """
        Forget all mails; the next one is number 1 again.

        Returns:
            How many there were.
        """
        count = len(self._entries)
        # The index first: dying in between leaves bytes without lines, which the next start cuts off.
        self._index.truncate(0)
        self._raw.truncate(0)
        self._entries.clear()
        return count

    def close(self) -> None:
        """Let go of the folder."""
        self._index.close()
        self._raw.close()

    def _newest(self, query: Query) -> Iterator[int]:
        left = query.limit
        for n in range(len(self._entries), 0, -1):
            if left == 0:
                return
            if query.matches(self._entries[n - 1]):
                left -= 1
                yield n

    def _summary(self, n: int) -> Summary:
        entry = self._entries[n - 1]
        fields = orjson.loads(self._index.read(entry.line_offset, entry.line_bytes))
        del fields["offset"]
        return Summary(n=n, **fields | {"subject": decode_field(fields["subject"])})

    def _lock(self, folder: Path) -> None:
        try:
            # Given back by the kernel, also after kill -9.
            fcntl.flock(self._index.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(f"another mailbox already uses {folder}") from error

    def _load(self, path: Path) -> None:
        line_offset = end = 0
        with path.open("rb") as lines:
            for line in lines:
                # Only the last line can be torn. A mail that is not all there: the machine lost power.
                entry = _read_line(path, line, line_offset) if line.endswith(b"\n") else None
                if entry is None or entry.offset + entry.size_bytes > self._raw.size_bytes:
                    break
                self._entries.append(entry)
                line_offset += len(line)
                end = entry.offset + entry.size_bytes
        self._index.truncate(line_offset)
        self._raw.truncate(end)


def _read_line(path: Path, line: bytes, line_offset: int) -> _Entry:
    try:
        fields = orjson.loads(line)
        return _Entry(
            fields["offset"],
            fields["size_bytes"],
            line_offset,
            len(line),
            fields["message_id"],
            fields["notification_id"],
            tuple(fields["rcpt_to"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is damaged at byte {line_offset}; move it and mails.raw away") from error
