"""A steady load by both doors, and what became of each id: for tests that break something meanwhile."""

import asyncio
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Self
from uuid import uuid4

import asyncpg
from confluent_kafka import Producer

from schemas.topics import REQUESTED
from tests.processes import eventually
from tests.relevo import Relevo, address

TERMINAL = {"sent", "failed", "bounced", "in_doubt", "expired", "cancelled", "suppressed"}

# So that one answer that is slow in coming holds up no other request.
HTTP_THREADS = 4
AGAIN_S = 0.2
ACCEPTED_S_MAX = 60.0


class Load:
    """
    Offers about *per_s* notifications a second, half by each door, until the block ends or *count* were offered.

    accepted: when each id was, in seconds since the epoch: at the 202, or at the broker's acknowledgement. What got
    neither is not in it. offered: every id, whatever was answered.

    Args:
        patient: whether a request that gets no 202 is made again until it does, under the same id, as clients do;
            otherwise it is given up.
        duplicates: the share of requests that are an earlier one again, at either door.
    """

    def __init__(
        self, relevo: Relevo, *, per_s: float = 50, count: int = 1_000_000, patient: bool = True, duplicates: float = 0
    ) -> None:
        self.offered: set[str] = set()
        self._relevo = relevo
        self._patient = patient
        self._duplicates = duplicates
        self._left = {"http": count - count // 2, "kafka": count // 2}
        self._pause_s = {"http": 2 * HTTP_THREADS / per_s, "kafka": 2 / per_s}
        self._accepted: dict[str, float] = {}
        self._answers: list[tuple[float, int]] = []  # (monotonic time, HTTP status; 0: none)
        self._problems: list[str] = []
        self._requests: list[dict[str, str]] = []
        self._random = random.Random(5)
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._over_http, daemon=True) for _ in range(HTTP_THREADS)]
        self._threads.append(threading.Thread(target=self._over_kafka, daemon=True))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        self._ending.set()
        self._join()
        # What the test itself failed for comes first.
        assert kind or not self._problems, self._problems

    @property
    def accepted(self) -> dict[str, float]:
        with self._lock:
            return dict(self._accepted)

    def wait(self) -> None:
        """Return when *count* were offered and every offer was answered."""
        self._join()
        assert not self._problems, self._problems

    def answers_since(self, moment_s: float) -> Counter:
        """Return how often each HTTP status was answered since *moment_s* of the monotonic clock; 0: no answer."""
        return Counter(status for at, status in list(self._answers) if at >= moment_s)

    def rows(self) -> dict[str, tuple[str, int]]:
        """Return state and attempt of each offered id that is in the ledger."""
        return rows(self._relevo, self.offered.copy())

    def settle(self, within_s: float, *, in_doubt_max: int = 0) -> dict[str, tuple[str, int]]:
        """As the function of this name, for what this load has accepted and offered."""
        return settle(self._relevo, self.accepted, within_s, offered=self.offered, in_doubt_max=in_doubt_max)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _over_http(self) -> None:
        for request in self._due("http"):
            deadline_s = time.monotonic() + ACCEPTED_S_MAX
            while not self._accepts(request) and self._patient:
                if time.monotonic() > deadline_s:
                    self._problems.append(f"{request['id']} was not accepted within {ACCEPTED_S_MAX} s")
                    break
                time.sleep(AGAIN_S)

    def _accepts(self, request: dict[str, str]) -> bool:
        try:
            status, _, _ = self._relevo.post("/api/notify/", request)
        except (OSError, ValueError):
            status = 0
        self._answers.append((time.monotonic(), status))
        if status == 202:
            self._take(request["id"])
        return status == 202

    def _over_kafka(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._relevo.servers.kafka_bootstrap,
                "enable.idempotence": True,
                "log_level": 0,
                "socket.timeout.ms": 5_000,
            }
        )
        for request in self._due("kafka"):

            def report(error: object, _record: object, notification_id: str = request["id"]) -> None:
                if error is None:
                    self._take(notification_id)

            producer.produce(REQUESTED.name, json.dumps(request), on_delivery=report)
            producer.poll(0)
        if producer.flush(60):
            self._problems.append("not everything that was produced was acknowledged")

    def _take(self, notification_id: str) -> None:
        with self._lock:
            self._accepted.setdefault(notification_id, time.time())

    def _due(self, door: str) -> Iterator[dict[str, str]]:
        """Yield requests as their time comes; who was held up catches up."""
        due_s = time.monotonic()
        while not self._ending.is_set() and (request := self._next(door)):
            yield request
            due_s += self._pause_s[door]
            self._ending.wait(max(0.0, due_s - time.monotonic()))

    def _next(self, door: str) -> dict[str, str] | None:
        with self._lock:
            if not self._left[door]:
                return None
            self._left[door] -= 1
            if self._requests and self._random.random() < self._duplicates:
                return self._random.choice(self._requests)
            request = {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"}
            self._requests.append(request)
            self.offered.add(request["id"])
            return request


def arrivals(relevo: Relevo) -> dict[str, float]:
    """Return when the sink took the mail of each id, in seconds since the epoch; of the last 10,000 mails."""
    return {
        mail["notification_id"]: datetime.fromisoformat(mail["received_at"]).timestamp()
        for mail in relevo.mailbox.messages()
        if mail["notification_id"]
    }


def rows(relevo: Relevo, ids: Collection[str]) -> dict[str, tuple[str, int]]:
    """Return state and attempt of each of *ids* that is in the ledger."""

    async def read() -> dict[str, tuple[str, int]]:
        connection = await asyncpg.connect(relevo.servers.postgres_dsn, timeout=5)
        try:
            found = await connection.fetch(
                "SELECT id, state, attempt FROM notifications WHERE id = ANY($1::uuid[])", list(ids)
            )
            return {str(row["id"]): (row["state"], row["attempt"]) for row in found}
        finally:
            await connection.close()

    return asyncio.run(read())


def settle(
    relevo: Relevo,
    accepted: Collection[str],
    within_s: float,
    *,
    offered: Collection[str] = (),
    in_doubt_max: int = 0,
) -> dict[str, tuple[str, int]]:
    """
    Wait until everything accepted is through, then hold ledger, sink and results against each other.

    Each must be sent, in the sink once, and have one terminal event that says so. What was offered and not accepted
    need not be in the ledger; if it is, the same holds for it.

    Args:
        in_doubt_max: how many may be in doubt instead, with a mail in the sink or without.
    Returns:
        State and attempt of each id in the ledger.
    """
    ids = {*accepted, *offered}

    def through() -> dict[str, tuple[str, int]]:
        found = rows(relevo, ids)
        missing = [each for each in accepted if each not in found]
        waiting = [each for each in accepted if each in found and found[each][0] not in TERMINAL]
        assert not missing, f"accepted without a row: {len(missing)} of {len(accepted)}: {missing[:3]}"
        assert not waiting, f"{len(waiting)} of {len(accepted)} wait: {Counter(found[each][0] for each in waiting)}"
        return found

    found = eventually(through, within_s, 0.5)
    states = Counter(state for state, _ in found.values())
    assert states.keys() <= {"sent", "in_doubt"}, states
    assert states["in_doubt"] <= in_doubt_max, states
    counts = relevo.mailbox.counts()
    mails = Counter((state, counts.get(each, 0)) for each, (state, _) in found.items())
    assert mails.keys() <= {("sent", 1), ("in_doubt", 1), ("in_doubt", 0)}, f"state and mails: {mails}"
    assert not ids & counts.keys() - found.keys(), "phantoms"
    # Also the events whose publisher ended before it could publish them: they are swept up.
    eventually(lambda: _told_once(relevo, found), 30, 1)
    return found


def sent_once(relevo: Relevo, ids: Collection[str], within_s: float) -> None:
    """Wait until every id is sent; then each must be in the sink once, and have one terminal event: sent."""
    settle(relevo, ids, within_s)


def _told_once(relevo: Relevo, found: dict[str, tuple[str, int]]) -> bool:
    told = defaultdict(list)
    for result in relevo.results():
        if result["terminal"] and result["id"] in found:
            told[result["id"]].append(result["status"])
    odd = {each: told[each] for each, (state, _) in found.items() if told[each] != [state]}
    assert not odd, f"{len(odd)} are told otherwise: {list(odd.items())[:3]}"
    return True
