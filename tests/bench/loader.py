"""
The load: HTTP requests as fast as they are answered, or at a given pace. A process of its own.

    python -m tests.bench.loader < one JSON object: see Order

Prints one JSON object: what was answered, in how many seconds. Writes each accepted id and the nanosecond at which
its request was due to `ids_file`.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path

import uvloop

BODY = "Se ha detectado una actividad inusual en el puerto 8000. " * 7  # 399 characters
BOUND_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Order:
    """
    What to load.

    shape: relevo or peer, whose words for the same content. batch: notifications in one request. connections: requests
    under way at once. seconds: how long; count: how many notifications at most. rate_per_s: at this pace; 0: as fast
    as they are answered. outstanding_max: wait while so many that were accepted are not in the sink; 0: never.
    duplicates: the share of requests that repeat an earlier one.
    """

    shape: str
    port: int
    path: str
    ids_file: str
    connections: int
    seconds: float
    key: str = ""
    batch: int = 1
    count: int = 1_000_000_000
    rate_per_s: float = 0.0
    outstanding_max: int = 0
    sink_control_port: int = 0
    duplicates: float = 0.0


def new_id() -> str:
    moment, noise = f"{time.time_ns() // 1_000_000:012x}", os.urandom(10).hex()
    return f"{moment[:8]}-{moment[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"


def content(shape: str, notification_id: str) -> str:
    if shape == "relevo":
        who = f'"to":"receiver@example.com","subject":"Alerta de Sistema {notification_id}"'
    else:
        who = f'"channel":"email","recipient":"receiver@example.com","subject":"Alerta de Sistema {notification_id}"'
    return f'{{"id":"{notification_id}",{who},"body":"{BODY}"}}'


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._last = False
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    @property
    def open(self) -> bool:
        return not self._last and not self.transport.is_closing()

    def ask(self, request: bytes) -> "asyncio.Future[int]":
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        low = buffer[:head].lower()
        at = low.find(b"content-length:")
        length = int(low[at + 15 : (low.find(b"\r", at) if low.find(b"\r", at) > 0 else head)]) if at >= 0 else 0
        if len(buffer) < head + 4 + length:
            return
        self._buffer = b""
        if b"connection: close" in low:  # gunicorn's ordinary workers keep none open
            self._last = True
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(int(buffer[9:12]))


class Load:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.answers: Counter[int] = Counter()
        self.accepted: list[tuple[str, int]] = []
        self.offered = 0
        self.taken = 0  # by the sink
        self.waits_s: list[float] = []
        self._random = random.Random(5)
        key = f"Authorization: Bearer {order.key}\r\n" if order.key else ""
        self._head = (
            f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}Content-Type: application/json\r\nContent-Length: "
        )

    def request(self, ids: list[str]) -> bytes:
        order = self.order
        if order.batch == 1:
            body = content(order.shape, ids[0])
        else:
            body = '{"items":[' + ",".join(content(order.shape, each) for each in ids) + "]}"
        return f"{self._head}{len(body)}\r\n\r\n{body}".encode()

    def take(self) -> tuple[list[str], bool]:
        """Return the ids of the next request, and whether they are a repeat."""
        if self.order.duplicates and self.accepted and self._random.random() < self.order.duplicates:
            return [self._random.choice(self.accepted)[0]], True
        self.offered += self.order.batch
        return [new_id() for _ in range(self.order.batch)], False

    async def connect(self) -> Connection:
        _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self.order.port)
        return made

    async def one(self, connection: Connection, due_ns: int) -> None:
        ids, repeat = self.take()
        begun = time.perf_counter()
        status = await connection.ask(self.request(ids))
        self.waits_s.append(time.perf_counter() - begun)
        self.answers[status] += 1
        if status == 202 and not repeat:
            self.accepted += [(each, due_ns) for each in ids]

    @property
    def room(self) -> bool:
        most = self.order.outstanding_max
        return not most or len(self.accepted) - self.taken < most

    async def closed(self, deadline: float) -> None:
        connection = await self.connect()
        while time.perf_counter() < deadline and self.offered < self.order.count:
            if not self.room:
                await asyncio.sleep(BOUND_POLL_S)
                continue
            if not connection.open:
                connection = await self.connect()
            await self.one(connection, time.time_ns())
        connection.transport.close()

    async def paced(self, deadline: float) -> None:
        free = deque([await self.connect() for _ in range(self.order.connections)])
        tasks: set[asyncio.Task[None]] = set()
        pause_ns = int(1e9 / self.order.rate_per_s)
        due_ns = time.time_ns()

        async def go(connection: Connection, due_ns: int) -> None:
            await self.one(connection, due_ns)
            free.append(connection if connection.open else await self.connect())

        while time.perf_counter() < deadline and self.offered < self.order.count:
            late_s = (due_ns - time.time_ns()) / 1e9
            if late_s > 0:
                await asyncio.sleep(late_s)
            while not free:  # noqa: ASYNC110 -- an event for each request would cost what is to be measured
                await asyncio.sleep(0.001)
            task = asyncio.create_task(go(free.popleft(), due_ns))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due_ns += pause_ns
        if tasks:
            await asyncio.wait(tasks)

    async def watch_sink(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.order.sink_control_port)
        while True:
            writer.write(b'{"do": "count"}\n')
            self.taken = json.loads(await reader.readline())["count"]
            await asyncio.sleep(BOUND_POLL_S)

    async def run(self) -> dict[str, object]:
        watching = asyncio.create_task(self.watch_sink()) if self.order.outstanding_max else None
        begun = time.perf_counter()
        deadline = begun + self.order.seconds
        if self.order.rate_per_s:
            await self.paced(deadline)
        else:
            await asyncio.gather(*(self.closed(deadline) for _ in range(self.order.connections)))
        seconds = time.perf_counter() - begun
        if watching is not None:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        text = "\n".join(f"{each} {at}" for each, at in self.accepted)
        await asyncio.to_thread(Path(self.order.ids_file).write_text, text)
        waits = sorted(self.waits_s)
        return {
            "seconds": seconds,
            "accepted": len(self.accepted),
            "answers": {str(status): count for status, count in self.answers.items()},
            "wait_p50_ms": 1000 * waits[len(waits) // 2] if waits else None,
            "wait_p99_ms": 1000 * waits[int(len(waits) * 0.99)] if waits else None,
            "taken_at_end": self.taken,
        }


if __name__ == "__main__":
    order = Order(**json.load(sys.stdin))
    json.dump(uvloop.run(Load(order).run()), sys.stdout)
