"""
Distance: a TCP proxy that delivers every byte later, in order, and has no other limit. A process of its own.

    python -m tests.bench.distance PORT TARGET_PORT CONTROL_PORT DELAY_MS

DELAY_MS is that of one direction, so the round-trip time is twice as long. To open a connection takes no round trip
here; the greeting is on its way half of one. The control port takes one JSON object a line, {"do": "reset" | "count"},
and tells how many connections were opened since the last reset, and how many were open at most.
"""

import asyncio
import json
import sys
from collections import deque

import uvloop


class Counts:
    """Connections, as who listens sees them."""

    def __init__(self) -> None:
        self.opened = self.open = self.open_max = 0

    def reset(self) -> None:
        self.opened, self.open_max = 0, self.open

    def came(self) -> None:
        self.opened += 1
        self.open += 1
        self.open_max = max(self.open_max, self.open)

    def went(self) -> None:
        self.open -= 1


class Direction:
    """One way: what comes in at one end goes out at the other *delay_s* later, and so does the end."""

    def __init__(self, delay_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay_s = delay_s
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self.out: asyncio.Transport | None = None

    def put(self, data: bytes | None) -> None:
        self._under_way.append((self._loop.time() + self._delay_s, data))
        if len(self._under_way) == 1:
            self._loop.call_later(self._delay_s, self._arrive)

    def _arrive(self) -> None:
        while self._under_way and self._under_way[0][0] <= self._loop.time():
            _, data = self._under_way.popleft()
            if self.out is None or self.out.is_closing():
                continue
            if data is None:
                self.out.close()
            else:
                self.out.write(data)
        if self._under_way:
            self._loop.call_later(max(0.0, self._under_way[0][0] - self._loop.time()), self._arrive)


class End(asyncio.Protocol):
    """One end of a connection: reads into *into*, and is where *outof* comes out."""

    def __init__(self, into: Direction, outof: Direction, counts: Counts | None = None) -> None:
        self._into, self._outof, self._counts = into, outof, counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outof.out = transport
        if self._counts is not None:
            self._counts.came()

    def data_received(self, data: bytes) -> None:
        self._into.put(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._into.put(None)
        if self._counts is not None:
            self._counts.went()


async def control(counts: Counts, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        if json.loads(line)["do"] == "reset":
            counts.reset()
        writer.write(json.dumps({"opened": counts.opened, "open_max": counts.open_max}).encode() + b"\n")
    writer.close()


async def main(port: int, target_port: int, control_port: int, delay_ms: float) -> None:
    loop = asyncio.get_running_loop()
    counts = Counts()
    opening: set[asyncio.Task[object]] = set()

    def accept() -> End:
        there, back = Direction(delay_ms / 1000), Direction(delay_ms / 1000)
        task = asyncio.ensure_future(loop.create_connection(lambda: End(back, there), "127.0.0.1", target_port))
        opening.add(task)
        task.add_done_callback(opening.discard)
        return End(there, back, counts)

    await loop.create_server(accept, "127.0.0.1", port, backlog=1024)
    server = await asyncio.start_server(lambda r, w: control(counts, r, w), "127.0.0.1", control_port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
