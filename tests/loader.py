"""A light, steady load by both doors, and what became of it: for tests that break something meanwhile."""

import asyncio
import json
import random
import threading
import time
from collections import Counter, defaultdict
from uuid import uuid4

import asyncpg
from confluent_kafka import Producer

from schemas.topics import REQUESTED
from tests.processes import eventually
from tests.relevo import Relevo, address

TERMINAL = {"sent", "failed", "bounced", "in_doubt", "expired", "cancelled", "suppressed"}

HTTP_THREADS = 4


class Loader:
    """
    About *per_second* notifications a second, half by each door, until the block ends.

    Args:
        duplicates: the share of requests that are an earlier one again, at either door.
    """

    def __init__(self, relevo: Relevo, *, per_second: float = 50, duplicates: float = 0, seed: int = 5):
        self.relevo = relevo
        self.duplicates = duplicates
        self.accepted: set[str] = set()  # answered 202, or acknowledged by the broker
        self.offered: set[str] = set()  # everything, whatever was answered
        self.answers: list[tuple[float, int]] = []  # (monotonic time, HTTP status; 0: none)
        self.problems: list[object] = []
        self._requests: list[dict[str, str]] = []
        self._random = random.Random(seed)
        self._pause_s = HTTP_THREADS * 2 / per_second
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._over_http) for _ in range(HTTP_THREADS)]
        self._threads.append(threading.Thread(target=self._over_kafka, args=(2 / per_second,)))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error):
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def answers_since(self, moment: float) -> Counter:
        """Return how often each HTTP status was answered since *moment*."""
        return Counter(status for at, status in self.answers if at >= moment)

    def _next(self):
        if self._requests and self._random.random() < self.duplicates:
            return self._random.choice(self._requests)
        request = {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"}
        self._requests.append(request)
        self.offered.add(request["id"])
        return request

    def _over_http(self):
        while not self._ended.is_set():
            request = self._next()
            try:
                status, _, _ = self.relevo.post("/api/notify/", request)
            except (OSError, ValueError):
                status = 0
            self.answers.append((time.monotonic(), status))
            if status == 202:
                self.accepted.add(request["id"])
            self._ended.wait(self._pause_s)

    def _over_kafka(self, pause_s):
        producer = Producer(
            {"bootstrap.servers": self.relevo.servers.kafka_bootstrap, "enable.idempotence": True, "log_level": 0}
        )

        def reported(error, record):
            if error is None:
                self.accepted.add(json.loads(record.value())["id"])

        while not self._ended.is_set():
            producer.produce(REQUESTED.name, json.dumps(self._next()).encode(), on_delivery=reported)
            producer.poll(0)
            self._ended.wait(pause_s)
        if producer.flush(60):
            self.problems.append("not everything that was produced was acknowledged")

    # -- afterwards ---------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, tuple[str, int]]:
        """Return state and attempt of each offered id that is in the ledger."""
        return asyncio.run(self._rows())

    async def _rows(self):
        connection = await asyncpg.connect(self.relevo.servers.postgres_dsn, timeout=5)
        try:
            found = await connection.fetch(
                "SELECT id, state, attempt FROM notifications WHERE id = ANY($1::uuid[])", list(self.offered)
            )
            return {str(row["id"]): (row["state"], row["attempt"]) for row in found}
        finally:
            await connection.close()

    def settle(self, within_s: float, *, in_doubt_max: int = 0) -> dict[str, tuple[str, int]]:
        """
        Wait until everything accepted is through, then hold ledger, sink and results against each other.

        Returns:
            State and attempt of each id in the ledger.
        """

        def through():
            rows = self.rows()
            missing = self.accepted - rows.keys()
            waiting = [each for each in self.accepted & rows.keys() if rows[each][0] not in TERMINAL]
            assert not missing, f"accepted without a row: {len(missing)} of {len(self.accepted)}"
            assert not waiting, f"{len(waiting)} of {len(self.accepted)} wait: {Counter(rows[w][0] for w in waiting)}"
            return rows

        rows = eventually(through, within_s, 0.5)
        assert not self.problems, self.problems
        counts = self.relevo.mailbox.counts()
        odd = Counter(
            (state, counts.get(each, 0))
            for each, (state, _) in rows.items()
            if counts.get(each, 0) != 1 and not (state == "in_doubt" and not counts.get(each, 0))
        )
        assert not odd, f"state and mails: {odd}"
        assert not self.offered & counts.keys() - rows.keys(), "phantoms"
        states = Counter(state for state, _ in rows.values())
        assert states.keys() <= {"sent", "in_doubt"}, states
        assert states["in_doubt"] <= in_doubt_max, states
        eventually(lambda: self._told_once(rows), 30, 1)
        return rows

    def _told_once(self, rows):
        told = defaultdict(list)
        for result in self.relevo.results():
            if result["terminal"] and result["id"] in rows:
                told[result["id"]].append(result["status"])
        odd = {each: told[each] for each, (state, _) in rows.items() if told[each] != [state]}
        assert not odd, f"{len(odd)} are told otherwise: {list(odd.items())[:3]}"
        return True
