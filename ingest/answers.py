"""Answers: a document as the response that carries it. What went wrong is answered by `ingest.problems`."""

from collections.abc import Mapping

import orjson
from aiohttp import web


def json_response(document: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the answer whose body is *document*; headers: beside its type."""
    return web.Response(
        body=orjson.dumps(document), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )
