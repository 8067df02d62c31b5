"""A steady load by both doors, and what became of each id: for tests that break something meanwhile."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Self
from uuid import uuid4

import asyncpg
from confluent_kafka import Producer

from schemas.topics import REQUESTED
from tests.processes import eventually
from tests.relevo import Relevo, address


class Load:
    """
    Offers notifications, half by each door, until it is stopped or *count* were offered.

    accepted: when each id was, in seconds since the epoch: at the 202, or at the broker's acknowledgement. What got
    neither is not in it.
    """

    def __init__(self, relevo: Relevo, *, per_s: float, count: int = 1_000_000) -> None:
        self._relevo = relevo
        self._pause_s = 2 / per_s
        self._left = {"http": count - count // 2, "kafka": count // 2}
        self._accepted: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._http, self._kafka)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ending.set()
        self.wait()

    @property
    def accepted(self) -> dict[str, float]:
        with self._lock:
            return dict(self._accepted)

    def wait(self) -> None:
        """Return when every offer was answered."""
        for thread in self._threads:
            thread.join()

    def _http(self) -> None:
        for _ in self._ticks("http"):
            # The door may be closed for a moment: the same request again, under the same id, as clients do.
            request = {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"}
            self._take(eventually(lambda request=request: self._try(request), 60, 0.2))

    def _try(self, request: dict[str, str]) -> str | None:
        try:
            return self._relevo.notify(**request)
        except OSError:
            return None

    def _kafka(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._relevo.servers.kafka_bootstrap,
                "enable.idempotence": True,
                "log_level": 0,
                "socket.timeout.ms": 5_000,
            }
        )
        for _ in self._ticks("kafka"):
            request = {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"}

            def report(error: object, _record: object, notification_id: str = request["id"]) -> None:
                if error is None:
                    self._take(notification_id)

            producer.produce(REQUESTED.name, json.dumps(request), on_delivery=report)
            producer.poll(0)
        assert producer.flush(60) == 0

    def _take(self, notification_id: str) -> None:
        with self._lock:
            self._accepted[notification_id] = time.time()

    def _ticks(self, door: str) -> Iterator[None]:
        due_s = time.monotonic()
        for _ in range(self._left[door]):
            if self._ending.is_set():
                return
            yield
            due_s += self._pause_s
            self._ending.wait(max(0.0, due_s - time.monotonic()))


def arrivals(relevo: Relevo) -> dict[str, float]:
    """Return when the sink took the mail of each id, in seconds since the epoch; of the last 10,000 mails."""
    return {
        mail["notification_id"]: datetime.fromisoformat(mail["received_at"]).timestamp()
        for mail in relevo.mailbox.messages()
        if mail["notification_id"]
    }


def states(relevo: Relevo) -> dict[str, str]:
    """Return the state of every id as the ledger has it."""

    async def read() -> dict[str, str]:
        connection = await asyncpg.connect(relevo.servers.postgres_dsn)
        try:
            return {
                str(row["id"]): row["state"] for row in await connection.fetch("SELECT id, state FROM notifications")
            }
        finally:
            await connection.close()

    return asyncio.run(read())


def sent_once(relevo: Relevo, ids: dict[str, float], within_s: float) -> None:
    """Wait until every id is sent; then each must be in the sink once, and have one terminal event: sent."""

    def all_sent() -> bool:
        found = states(relevo)
        waiting = [each for each in ids if found.get(each) != "sent"]
        assert not waiting, f"{len(waiting)} of {len(ids)}: {[(each, found.get(each)) for each in waiting[:3]]}"
        return True

    eventually(all_sent, within_s, 0.5)
    counts = relevo.mailbox.counts()
    odd = {each: counts.get(each, 0) for each in ids if counts.get(each, 0) != 1}
    assert not odd, odd

    def told_once() -> bool:
        told = dict.fromkeys(ids, 0)
        for result in relevo.results():
            if result["terminal"] and result["id"] in told:
                told[result["id"]] += 1
        odd = {each: times for each, times in told.items() if times != 1}
        assert not odd, f"{len(odd)} ids: {list(odd.items())[:3]}"
        return True

    # Also the events whose publisher ended before it could publish them: they are swept up.
    eventually(told_once, 30, 1)
