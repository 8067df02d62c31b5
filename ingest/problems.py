"""
Problems: one table from what went wrong to what the client reads (RFC 9457, application/problem+json).

Every error that leaves the door is made here, and none of them repeats what was sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from schemas.errors import FieldError, InvalidRequestError, TransientError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
OUTBOX_RETRY_AFTER_S = 30

# A path in a problem document says which resource, it must not become a way to send text back.
_INSTANCE_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of problem: its status, its title, what to do about it, and headers that go with it.

    closes: the rest of the request is not worth reading, so the connection ends with the answer.
    """

    status: int
    title: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False


KINDS: dict[str, Kind] = {
    "bad_request": Kind(400, "Bad request", "The request is not valid HTTP."),
    "invalid_json": Kind(400, "Invalid JSON", "The body is not a JSON text that is taken here; see errors."),
    "unauthorized": Kind(
        401,
        "Key required",
        "Send a valid key as `Authorization: Bearer KEY`.",
        {"WWW-Authenticate": 'Bearer realm="relevo"'},
    ),
    "not_found": Kind(404, "Not found", "There is nothing here, or it is not yours to see."),
    "method_not_allowed": Kind(405, "Method not allowed", "The header Allow names the methods that this path takes."),
    "body_timeout": Kind(408, "Body incomplete", "The body did not arrive within 10 seconds.", closes=True),
    "idempotency_conflict": Kind(
        409, "Idempotency conflict", "This id or key was used before for something else; take a new one."
    ),
    "not_cancellable": Kind(
        409, "Not cancellable", "It was claimed or has come to its end, as errors says; what is under way goes on."
    ),
    "not_reschedulable": Kind(
        409, "Not reschedulable", "It was tried or has come to its end, as errors says; its time can no longer change."
    ),
    "body_too_large": Kind(
        413, "Body too large", "The body has more bytes than /docs allows for this path.", closes=True
    ),
    "unsupported_media_type": Kind(
        415, "Unsupported media type", "Send `Content-Type: application/json` in UTF-8, without a Content-Encoding."
    ),
    "invalid_request": Kind(422, "Invalid request", "Some fields are wrong; see errors."),
    "rate_limited": Kind(
        429,
        "Too many requests",
        "More than is allowed for now. Send it again after Retry-After, with the same id or key.",
    ),
    "internal_error": Kind(500, "Internal error", "This is our mistake. The logs name it by request_id."),
    "unavailable": Kind(
        503,
        "Temporarily unavailable",
        "It could not be stored, or it is not known whether it was. Send it again with the same id or key.",
        {"Retry-After": str(RETRY_AFTER_S)},
    ),
    "too_many_waiting": Kind(
        503,
        "Too many are waiting",
        "Too many callers wait for an outcome. Ask again later, or without `wait`.",
        {"Retry-After": str(RETRY_AFTER_S)},
    ),
    "outbox_full": Kind(
        503,
        "Too much is waiting",
        "Too many accepted notifications wait for Kafka. Send it again later.",
        {"Retry-After": str(OUTBOX_RETRY_AFTER_S)},
    ),
}

# What aiohttp itself refuses.
_CODES_BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ProblemError(Exception):
    """The answer is a problem document; code is a name in KINDS, headers go beside those of its kind."""

    def __init__(
        self, code: str, errors: Sequence[FieldError] = (), *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.errors = errors
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem before it is a document: code, field errors, and headers beside those of its kind."""

    code: str
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of(error: Exception) -> Problem:
    """Return what *error* is to the client; anything unforeseen is an internal_error."""
    match error:
        case ProblemError():
            return Problem(error.code, error.errors, error.headers)
        case InvalidRequestError():
            return Problem(error.code, error.errors)
        case TransientError():
            return Problem("unavailable")
        case web.HTTPMethodNotAllowed():
            return Problem("method_not_allowed", headers={"Allow": error.headers["Allow"]})
        case web.HTTPException():
            default = "bad_request" if error.status < 500 else "internal_error"
            return Problem(_CODES_BY_STATUS.get(error.status, default))
        case _:
            return Problem("internal_error")


def problem_response(problem: Problem, *, instance: str, request_id: str, trace_id: str | None) -> web.Response:
    """Return the answer for *problem*; instance is the path that was asked for, percent-encoded."""
    kind = KINDS[problem.code]
    document = {
        "type": f"/docs#{problem.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "instance": instance[:_INSTANCE_CHARS_MAX],
        "code": problem.code,
        "request_id": request_id,
        "trace_id": trace_id,
        "errors": [{"pointer": error.pointer, "code": error.code, "detail": error.detail} for error in problem.errors],
    }
    response = web.Response(
        body=orjson.dumps(document),
        status=kind.status,
        headers={"Content-Type": MEDIA_TYPE, **kind.headers, **problem.headers},
    )
    if kind.closes:
        response.force_close()
    return response
