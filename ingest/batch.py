"""
Batches: many notifications in one call, each judged alone, all of them written together.

An item has the id that it names. Otherwise the batch's key and its place give it one: the same batch again finds every
item where it was.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from infra.logs import get_logger
from infra.telemetry import trace_id_of
from ingest.accept import Acceptor, Answer, Submission, Verdict
from ingest.access import Access
from ingest.answers import Document
from ingest.exchange import EXCHANGE, Exchange
from ingest.problems import KINDS, RETRY_AFTER_S, Problem, ProblemError, problem_of
from ingest.rate_limit import RateLimits
from ingest.requests import read_json
from ingest.submissions import read_key, submission_of_notify
from ingest.sweep import Gate
from ingest.timeline import path_of
from schemas.errors import FieldError, InvalidRequestError, TransientError
from schemas.identity import id_in_batch
from schemas.limits import BATCH_BODY_BYTES_MAX, BATCH_ITEMS_MAX
from schemas.validation import pointer

# How many batches are held at the same time: each may have a mebibyte, and some times that while it is judged.
BATCHES_MAX = 64

log = get_logger()


@dataclass(frozen=True, slots=True)
class Batch:
    """What one call of /api/notify/batch brought. key: None: the items that name no id get new ones."""

    items: Sequence[object]
    key: str | None


def read_batch(given: object, *, keys: Sequence[str]) -> Batch:
    """
    Return the batch that a body is; what is in its items is not looked at.

    Args:
        given: the parsed body.
        keys: the values of the Idempotency-Key headers.
    Raises:
        InvalidRequestError: with every error found, in the headers too.
    """
    errors: list[FieldError] = []
    key = read_key(keys, errors)
    items: Any = None
    if isinstance(given, dict):
        errors += [
            FieldError(pointer((name,)), "unknown_field", "is not a field of a batch; it has items and nothing else")
            for name in given
            if name != "items"
        ]
        items = given.get("items")
        errors += _errors_of(given)
    else:
        errors.append(FieldError("", "type", "must be a JSON object"))
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    return Batch(items, key)


def _errors_of(given: dict[str, Any]) -> list[FieldError]:
    if "items" not in given:
        return [FieldError("/items", "required", "is required")]
    items = given["items"]
    if not isinstance(items, list):
        return [FieldError("/items", "type", "must be an array")]
    if not items:
        return [FieldError("/items", "empty", "must have at least one item")]
    if len(items) > BATCH_ITEMS_MAX:
        return [FieldError("/items", "too_many", f"must have at most {BATCH_ITEMS_MAX} items; send several batches")]
    return []


def submissions_of(batch: Batch, *, client: str, traceparent: str) -> list[Submission | InvalidRequestError]:
    """Return, for each item in order, what it wants accepted, or why it cannot be; pointers are into the item."""
    found: list[Submission | InvalidRequestError] = []
    for place, item in enumerate(batch.items):
        otherwise = None if batch.key is None else id_in_batch(client, batch.key, place)
        try:
            found.append(
                submission_of_notify(item, keys=(), client=client, traceparent=traceparent, otherwise=otherwise)
            )
        except InvalidRequestError as invalid:
            found.append(invalid)
    return found


class Batches:
    """Accepts many notifications in one call."""

    def __init__(self, *, acceptor: Acceptor, gate: Gate, access: Access, limits: RateLimits) -> None:
        self._acceptor = acceptor
        self._gate = gate
        self._access = access
        self._limits = limits
        self._room = asyncio.Semaphore(BATCHES_MAX)

    async def notify(self, request: web.Request) -> Document:
        """POST /api/notify/batch."""
        exchange = request[EXCHANGE]
        # Before the body: who may not ask is not read.
        client = self._access.client_of(request.headers, request.remote)
        async with self._room:
            try:
                batch = read_batch(
                    await read_json(request, bytes_max=BATCH_BODY_BYTES_MAX),
                    keys=request.headers.getall("Idempotency-Key", ()),
                )
            except (InvalidRequestError, ProblemError):
                # What is none was read and judged, too; a lone notification that is none costs the same.
                await self._limits.of_client(client)
                raise
            await self._limits.of_client(client, cost=len(batch.items))
            if self._gate.full:
                raise ProblemError("outbox_full")
            wanted = submissions_of(batch, client=client, traceparent=exchange.traceparent)
            answers = iter(await self._acceptor.accept_all([each for each in wanted if isinstance(each, Submission)]))
            return _response([next(answers) if isinstance(each, Submission) else each for each in wanted], exchange)


def _response(found: Sequence[Answer | Exception], exchange: Exchange) -> Document:
    """
    Return what the client reads: 202 when every item was accepted, 207 when some say otherwise.

    Raises:
        TransientError: nothing was accepted and something may be the next time, which is what a 503 is for.
    """
    items = [_item(each, place, exchange) for place, each in enumerate(found)]
    accepted = sum("error" not in item for item in items)
    refused = len(items) - accepted
    replayed = sum(isinstance(each, Answer) and each.verdict is Verdict.REPLAYED for each in found)
    # The one line of the batch; what became of each item is asked by its id.
    log.info(
        "batch_judged",
        request_id=exchange.request_id,
        trace_id=exchange.trace_id,
        accepted=accepted,
        replayed=replayed,
        refused=refused,
    )
    passing = [each for each in found if isinstance(each, TransientError)]
    if passing and not accepted:
        raise passing[0]
    headers = {"Retry-After": str(RETRY_AFTER_S)} if passing else {}
    # Nothing in it was new: the same batch was here before.
    if replayed and replayed == accepted:
        headers["Idempotency-Replayed"] = "true"
    said = {"items": items, "accepted": accepted, "refused": refused}
    return Document(orjson.dumps(said), 207 if refused else 202, headers)


def _trace_id(answer: Answer, exchange: Exchange) -> str | None:
    # Nearly always the trace of this very call: it is not taken apart once more for each item.
    if answer.traceparent == exchange.traceparent:
        return exchange.trace_id
    return trace_id_of(answer.traceparent) or exchange.trace_id


def _item(found: Answer | Exception, place: int, exchange: Exchange) -> dict[str, Any]:
    if isinstance(found, Answer) and found.verdict is not Verdict.CONFLICT:
        identity = str(found.id)
        return {
            "status": found.status,
            "id": identity,
            "trace_id": _trace_id(found, exchange),
            "replayed": found.verdict is Verdict.REPLAYED,
            "links": {"self": path_of(identity)},
        }
    problem = Problem("idempotency_conflict") if isinstance(found, Answer) else problem_of(found)
    kind = KINDS[problem.code]
    errors = [
        {"pointer": f"/items/{place}{error.pointer}", "code": error.code, "detail": error.detail}
        for error in problem.errors
    ]
    said = {"code": problem.code, "status": kind.status, "title": kind.title, "detail": kind.detail, "errors": errors}
    return {"error": said}
