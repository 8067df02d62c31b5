"""Requests: reading a body safely. No more of it than is allowed, and no longer than is allowed."""

import asyncio
from typing import Any

from aiohttp import hdrs, web

from ingest.problems import ProblemError
from schemas.json_text import parse_json
from schemas.limits import HTTP_BODY_BYTES_MAX

BODY_S_MAX = 10.0


async def read_json(request: web.Request, *, bytes_max: int = HTTP_BODY_BYTES_MAX) -> Any:
    """
    Read the body, no more of it than *bytes_max* and no longer than BODY_S_MAX, and parse it.

    Raises:
        ProblemError: unsupported_media_type, body_too_large, body_timeout or bad_request.
        InvalidRequestError: invalid_json.
    """
    if not _is_json(request):
        raise ProblemError("unsupported_media_type")
    return parse_json(await read_body(request, bytes_max=bytes_max))


async def read_body(request: web.Request, *, bytes_max: int) -> bytes:
    """
    Read the body, whatever it is, no more of it than *bytes_max* and no longer than BODY_S_MAX.

    Raises:
        ProblemError: unsupported_media_type (it is compressed), body_too_large, body_timeout or bad_request.
    """
    # Before a byte is read: a compressed body of a megabyte may hold a gigabyte.
    if hdrs.CONTENT_ENCODING in request.headers:
        raise ProblemError("unsupported_media_type")
    if (request.content_length or 0) > bytes_max:
        raise ProblemError("body_too_large")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        if request.content.is_eof():
            # All of it came with the head: nothing to wait for.
            return _bounded(request.content.read_nowait(), bytes_max)
        async with asyncio.timeout(BODY_S_MAX):
            return await _read_bytes(request, bytes_max)
    except TimeoutError:
        raise ProblemError("body_timeout") from None
    except web.RequestPayloadError:
        raise ProblemError("bad_request") from None


def _is_json(request: web.Request) -> bool:
    if request.headers.get(hdrs.CONTENT_TYPE) == "application/json":
        return True
    return request.content_type == "application/json" and (request.charset or "utf-8").lower() in {"utf-8", "utf8"}


def _bounded(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise ProblemError("body_too_large")
    return body


async def _read_bytes(request: web.Request, bytes_max: int) -> bytes:
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > bytes_max:
            raise ProblemError("body_too_large")
    return bytes(body)
