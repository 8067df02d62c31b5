"""
Answers: a document as the response that carries it. What went wrong is answered by `ingest.problems`.

What is answered thousands of times a second is written as bytes, head and body at once: the tables that headers
otherwise go through cost more than validating a request.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter


def json_response(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer whose body is *document*; headers: beside its type."""
    return web.Response(
        body=orjson.dumps(document), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


@dataclass(frozen=True, slots=True)
class Document:
    """
    An answer in JSON before it is a response: `ingest.exchange` makes it one, with the headers that all have.

    headers: beside its type; made here, of nothing that a caller could put a line break into.
    """

    body: bytes
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, request: web.BaseRequest, headers: Mapping[str, str]) -> web.StreamResponse:
        """Return the response to *request*, with *headers* too."""
        if request.version == HttpVersion11:
            return _Written(self, headers)
        all_of_them = {"Content-Type": "application/json", **self.headers, **headers}
        return web.Response(body=self.body, status=self.status, headers=all_of_them)


class _Written(web.StreamResponse):
    """A response in HTTP/1.1 to a request that is not HEAD, written in one piece."""

    def __init__(self, document: Document, headers: Mapping[str, str]) -> None:
        super().__init__(status=document.status)
        self._document = document
        self._more = headers
        self._sent = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write everything; see `web.StreamResponse.prepare`."""
        if self._sent:
            return None
        self._sent = True
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        document = self._document
        lines = [_first_lines(document.status, int(time.time()))]
        lines += [f"{name}: {value}\r\n" for name, value in document.headers.items()]
        lines += [f"{name}: {value}\r\n" for name, value in self._more.items()]
        lines.append(f"Content-Length: {len(document.body)}\r\n\r\n")
        if not self._keep_alive:
            lines.insert(1, "Connection: close\r\n")
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("nobody is there to be answered")
        request.writer.output_size += len(document.body)  # some of it is out: from now on nothing else can be said
        transport.write("".join(lines).encode() + document.body)
        # Who does not read its answers is not written to without end.
        await request.writer.drain()
        return None

    async def write_eof(self, data: Any = b"") -> None:
        """Add nothing: all of it was written."""
        assert not data


@lru_cache(maxsize=64)
def _first_lines(status: int, at_s: int) -> str:
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: application/json\r\nDate: {formatdate(at_s, usegmt=True)}\r\n"
    )
