"""
A lean SMTP sink for measuring: takes every mail at once, notes its id and when, and keeps nothing else.

    python -m tests.bench.sink SMTP_PORT CONTROL_PORT

The control port takes one JSON object a line: {"do": "reset" | "count" | "dump", "path": ...}, or {"do": "offer",
"pipelining": false} for the connections that are opened from then on.
"""

import asyncio
import json
import re
import sys
import time
from pathlib import Path

import uvloop

_ID = re.compile(rb"\nSubject:[^\r]*?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_END = b"\r\n.\r\n"
_GREETING = b"220 sink\r\n"
_EHLO = b"250-sink\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
_EHLO_PIPELINING = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"


class Mails:
    """The id of each mail and the nanosecond of the epoch at which it was taken."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, int]] = []
        self.pipelining = True

    def take(self, message: bytes) -> None:
        found = _ID.search(message)
        self.taken.append((found[1] if found else b"", time.time_ns()))


class Conversation(asyncio.Protocol):
    def __init__(self, mails: Mails) -> None:
        self._mails = mails
        self._buffer = bytearray()
        self._message_from = -1  # where to look for its end; -1: no message is coming

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies: list[bytes] = []
        while self._step(replies):
            pass
        if replies:
            self._transport.write(b"".join(replies))

    def _step(self, replies: list[bytes]) -> bool:
        buffer = self._buffer
        if self._message_from >= 0:
            end = buffer.find(_END, max(0, self._message_from))
            if end < 0:
                self._message_from = max(0, len(buffer) - len(_END) + 1)
                return False
            self._mails.take(b"\n" + bytes(buffer[: end + 2]))
            del buffer[: end + len(_END)]
            self._message_from = -1
            replies.append(b"250 2.0.0 taken\r\n")
            return True
        end = buffer.find(b"\r\n")
        if end < 0:
            return False
        word = bytes(buffer[:4]).upper()
        del buffer[: end + 2]
        if word == b"DATA":
            self._message_from = 0
            replies.append(b"354 go on\r\n")
        elif word == b"EHLO":
            replies.append(_EHLO_PIPELINING if self._mails.pipelining else _EHLO)
        elif word == b"QUIT":
            replies.append(b"221 bye\r\n")
        else:
            replies.append(b"250 ok\r\n")
        return True


async def control(mails: Mails, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        asked = json.loads(line)
        taken = mails.taken
        if asked["do"] == "reset":
            mails.taken = taken = []
        elif asked["do"] == "offer":
            mails.pipelining = asked["pipelining"]
        elif asked["do"] == "dump":
            text = "\n".join(f"{each.decode()} {at}" for each, at in taken)
            await asyncio.to_thread(Path(asked["path"]).write_text, text)
        first, last = (taken[0][1], taken[-1][1]) if taken else (0, 0)
        writer.write(json.dumps({"count": len(taken), "first_ns": first, "last_ns": last}).encode() + b"\n")
    writer.close()


async def main(smtp_port: int, control_port: int) -> None:
    mails = Mails()
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Conversation(mails), "127.0.0.1", smtp_port, backlog=1024)
    server = await asyncio.start_server(lambda r, w: control(mails, r, w), "127.0.0.1", control_port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
