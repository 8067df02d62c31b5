"""
The load: notifications by both doors, with every kind of duplicate, by clients that try again until they are told yes.

The same id comes twice by HTTP, by HTTP and by Kafka, twice by Kafka, twice inside one array. A share of the recipients
carries a scenario for the mailbox. What was offered and what was acknowledged is noted here and nowhere else.
"""

import http.client
import json
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import orjson
from confluent_kafka import KafkaException, Producer

from schemas.topics import REQUESTED
from tests.chaos.checker import Offer

HTTP_THREADS = 4
ARRAY_MAX = 200
TICK_S = 0.1

# Scenario of the recipient (infra/mailbox/scenarios.py) and how many of a thousand have it.
SCENARIOS: tuple[tuple[str, float], ...] = (
    ("451x1", 20),
    ("451x2", 10),
    ("450x3", 5),
    ("421x1", 5),
    ("550", 15),
    ("554", 5),
    ("slowrcpt1", 8),
    ("slowdot1", 8),
    ("slowdot2", 4),
    ("dropdatax1", 15),
    ("dropdatax2", 5),
    ("dot451x1", 15),
    ("dot421x1", 5),
    ("dot550", 5),
    ("dropdotx1", 10),
    ("hangdot", 0.3),
    ("451x6", 3),
)
REFUSED_FOR_GOOD = {"550", "554", "dot550"}


@dataclass
class Book:
    """What was offered, and what was acknowledged. Written by several threads; each write is one step."""

    offered: dict[str, Offer] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    poison: list[bytes] = field(default_factory=list)
    anomalies: list[str] = field(default_factory=list)
    doors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("http", "kafka", "http again"), 0))


class Requests:
    """Makes requests, in an order that the seed decides."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed} requests")
        self._names = [name for name, _ in SCENARIOS]
        self._weights = [weight for _, weight in SCENARIOS]
        self._count = 0

    def make(self, book: Book, *, plain: bool = False) -> dict:
        """Return one request, and note that it is offered. plain: its recipient behaves."""
        rng = self._rng
        scenario = ""
        if not plain and rng.random() * 1000 < sum(self._weights):
            scenario = rng.choices(self._names, self._weights)[0]
        self._count += 1
        request = {
            "id": str(UUID(int=rng.getrandbits(128), version=4)),
            "to": f"c{self._count}{'+' + scenario if scenario else ''}@example.org",
            "subject": f"Alerta {self._count}",
            "body": "Se ha detectado.\r\n" * rng.choice((1, 1, 1, 5, 40)),
        }
        resend = rng.random() < 0.1
        if resend:
            request["on_doubt"] = "resend"
        book.offered[request["id"]] = Offer(may_bounce=scenario in REFUSED_FOR_GOOD, resend=resend)
        return request


class Load:
    """
    Offers until it is stopped.

    Args:
        rate: new ids a second; fewer while *behind* says that too many wait.
    """

    def __init__(
        self, *, http_port: int, bootstrap: str, seed: int, rate: int, book: Book, behind: Callable[[], bool]
    ) -> None:
        self.book = book
        self._http_port = http_port
        self._bootstrap = bootstrap
        self._rate = rate
        self._behind = behind
        self._rng = random.Random(f"{seed} load")
        self._requests = Requests(seed)
        self._lock = threading.Lock()
        self._by_http: queue.PriorityQueue[tuple[float, int, dict]] = queue.PriorityQueue()
        self._number = 0
        self._again: deque[tuple[bytes, list[str]]] = deque()
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._under_way = 0
        self._threads = [threading.Thread(target=self._over_kafka, daemon=True)]
        self._threads += [threading.Thread(target=self._over_http, daemon=True) for _ in range(HTTP_THREADS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float) -> None:
        """Offer nothing new; try again what was not acknowledged, for so long at most."""
        self._stopping.set()
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not (self._by_http.empty() and not self._again and not self._under_way):
            time.sleep(0.1)
        self._given_up.set()
        for thread in self._threads:
            thread.join(20)

    def probe(self) -> str:
        """Offer one ordinary notification over HTTP, now; its id."""
        with self._lock:
            request = self._requests.make(self.book, plain=True)
        self._offer_over_http(request, first=True)
        return request["id"]

    # -- the Kafka door, which also makes what goes by the other ---------------------------------------------------

    def _over_kafka(self) -> None:
        producer = self._producer()
        due = 0.0
        while not self._given_up.is_set():
            time.sleep(TICK_S)
            try:
                while self._again:
                    self._produce(producer, *self._again.popleft())
                if not self._stopping.is_set() and not self._behind():
                    due += self._rate * TICK_S
                    fresh, due = int(due), due % 1
                    self._offer(producer, fresh)
                producer.poll(0)
            except (BufferError, KafkaException):
                producer.poll(0.5)
        producer.flush(5)

    def _producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "acks": "all",
                # As a careless producer has it: a retry writes copies of its own.
                "enable.idempotence": False,
                "linger.ms": 5,
                "message.timeout.ms": 20_000,
                "message.max.bytes": 8 * 1024 * 1024,
                "topic.metadata.refresh.interval.ms": 5_000,
                "log_level": 0,
            }
        )

    def _offer(self, producer: Producer, count: int) -> None:
        rng = self._rng
        with self._lock:
            requests = [self._requests.make(self.book) for _ in range(count)]
        array: list[dict] = []
        for request in requests:
            luck = rng.random()
            if luck < 0.20:  # by HTTP
                self._offer_over_http(request, first=True)
                if luck < 0.04:  # ... twice
                    self._offer_over_http(request, first=False)
                if luck > 0.14:  # ... and by Kafka
                    array.append(request)
            else:  # by Kafka
                array.append(request)
                if luck > 0.93:  # ... twice, in one record
                    array.insert(rng.randrange(len(array)), request)
                elif luck > 0.86:  # ... twice, in two
                    self._produce_all(producer, [request])
                elif luck > 0.82:  # ... and by HTTP
                    self._offer_over_http(request, first=True)
        rng.shuffle(array)
        while array:
            size = min(len(array), rng.choice((1, 1, 5, 50, ARRAY_MAX)))
            self._produce_all(producer, array[:size])
            del array[:size]
        if rng.random() < 0.02:
            self._poison(producer)

    def _produce_all(self, producer: Producer, requests: Sequence[dict]) -> None:
        value = orjson.dumps(requests[0] if len(requests) == 1 else requests)
        self._produce(producer, value, [request["id"] for request in requests])

    def _poison(self, producer: Producer) -> None:
        value = self._rng.choice((b"\xff\xfe", b"{", b"[1, 2", b"no json ")) + self._rng.randbytes(8).hex().encode()
        self._produce(producer, value, [])

    def _produce(self, producer: Producer, value: bytes, ids: list[str]) -> None:
        self._under_way += 1

        def reported(error: object, _record: object) -> None:
            self._under_way -= 1
            if error is not None:
                self._again.append((value, ids))
            elif ids:
                self.book.acknowledged.update(ids)
                self.book.doors["kafka"] += len(ids)
            else:
                self.book.poison.append(value)

        try:
            producer.produce(REQUESTED.name, value, on_delivery=reported)
        except BaseException:
            self._under_way -= 1
            self._again.append((value, ids))
            raise

    # -- the HTTP door ---------------------------------------------------------------------------------------------

    def _offer_over_http(self, request: dict, *, first: bool, after_s: float = 0.0) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        self._by_http.put((time.monotonic() + after_s, number, request | {"first": first}))

    def _over_http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=15)
        while not self._given_up.is_set():
            try:
                due, _, request = self._by_http.get(timeout=0.5)
            except queue.Empty:
                continue
            wait_s = due - time.monotonic()
            if wait_s > 0:
                # The earliest of all is not due yet: nobody else has anything to do either.
                self._by_http.put((due, 0, request))
                time.sleep(min(wait_s, 0.05))
                continue
            first = request.pop("first")
            if not self._post(connection, request, first=first):
                connection.close()
                self._offer_over_http(request, first=first, after_s=random.uniform(0.2, 1.0))

    def _post(self, connection: http.client.HTTPConnection, request: dict, *, first: bool) -> bool:
        """Return whether the client has what it wants."""
        try:
            connection.request(
                "POST", "/api/notify/", json.dumps(request).encode(), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return False
        if answer.status == 202:
            self.book.acknowledged.add(request["id"])
            self.book.doors["http" if first else "http again"] += 1
            return True
        if answer.status in {429, 503}:
            return False
        # Also a 500: a client may be told to come again, never that relevo broke.
        self.book.anomalies.append(f"{request['id']}: {answer.status} {body[:200]!r}")
        return answer.status < 500
