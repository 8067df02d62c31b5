"""The handlers of replays: order one, see what became of it, call it off."""

import math
from uuid import UUID

from aiohttp import hdrs, web

from infra.logs import get_logger
from ingest.access import Access
from ingest.answers import json_response
from ingest.parameters import Parameters, whole_number
from ingest.problems import ProblemError
from ingest.rate_limit import RateLimits
from ingest.replay_store import ReplayStore
from ingest.replays import PATH, Wanted, counts_of_skips, order_document, read_wanted
from ingest.requests import read_json
from ingest.submissions import read_key
from schemas.errors import FieldError, InvalidRequestError
from schemas.identity import id_from_key, new_id
from schemas.stored import Row
from schemas.validation import read_id

LIMIT_MAX = 200
LIMIT_DEFAULT = 50
# A count that takes longer says that it is not complete.
COUNT_S_MAX = 4.0

log = get_logger()


class Replays:
    """Orders to send again. A client sees its own."""

    def __init__(self, store: ReplayStore, access: Access, limits: RateLimits) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._counting: set[str] = set()

    async def order(self, request: web.Request) -> web.Response:
        """POST /api/replays."""
        client = self._access.client_of(request.headers, request.remote)
        await self._limits.of_order(client)
        errors: list[FieldError] = []
        key = read_key(request.headers.getall("Idempotency-Key", ()), errors)
        given = await read_json(request)
        try:
            wanted = read_wanted(given)
        except InvalidRequestError as invalid:
            raise InvalidRequestError(invalid.code, [*errors, *invalid.errors]) from None
        if errors:
            raise InvalidRequestError("invalid_request", errors)
        if wanted.dry_run:
            return await self._count(client, wanted)
        return await self._create(new_id() if key is None else id_from_key(client, key), client, wanted)

    async def page(self, request: web.Request) -> web.Response:
        """GET /api/replays."""
        client = self._access.client_of(request.headers, request.remote)
        parameters = Parameters(request.query, known={"limit", "cursor"})
        limit = parameters.one("limit", "out_of_range", whole_number(1, LIMIT_MAX)) or LIMIT_DEFAULT
        after = parameters.one("cursor", "invalid_cursor", read_id)
        parameters.check()
        if after is not None and await self._store.find(after, client) is None:
            parameters.refuse("cursor", "invalid_cursor", "is none that was given out here; take `next` as it stands")
            parameters.check()
        found = await self._store.page(client, after=after, rows=limit + 1)
        shown = found[:limit]
        following = f"{PATH}?limit={limit}&cursor={shown[-1]['id']}" if len(found) > limit else None
        headers: dict[str, str] = {} if following is None else {hdrs.LINK: f'<{following}>; rel="next"'}
        return json_response({"items": [order_document(row) for row in shown], "next": following}, headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/replays/{id}."""
        client = self._access.client_of(request.headers, request.remote)
        return json_response(order_document(await self._find(_id_of(request), client)))

    async def cancel(self, request: web.Request) -> web.Response:
        """DELETE /api/replays/{id}. One that has ended stays as it is; the answer says how it stands."""
        client = self._access.client_of(request.headers, request.remote)
        order = _id_of(request)
        await self._store.cancel(order, client)
        found = await self._find(order, client)
        log.info("replay_cancelled", order=str(order), client=client, state=found["state"])
        return json_response(order_document(found))

    async def _count(self, client: str, wanted: Wanted) -> web.Response:
        # One at a time for each client: several would take turns with each other, and with those of the others.
        if client in self._counting:
            raise ProblemError("rate_limited", headers={"Retry-After": str(math.ceil(COUNT_S_MAX))})
        self._counting.add(client)
        try:
            count = await self._store.count(client, wanted, within_s=COUNT_S_MAX)
        finally:
            self._counting.discard(client)
        document = {
            "dry_run": True,
            "replayed": count.replayed,
            "skipped": counts_of_skips(count.skipped),
            "complete": count.complete,
        }
        return json_response(document)

    async def _create(self, order: UUID, client: str, wanted: Wanted) -> web.Response:
        row: Row | None = await self._store.create(order, client, wanted)
        headers: dict[str, str] = {hdrs.LOCATION: f"{PATH}/{order}"}
        if row is None:
            row = await self._find(order, client)
            if row["fingerprint"] != wanted.fingerprint():
                raise ProblemError("idempotency_conflict")
            headers["Idempotency-Replayed"] = "true"
        else:
            log.info("replay_ordered", order=str(order), client=client, force=wanted.force)
        return json_response(order_document(row), status=202, headers=headers)

    async def _find(self, order: UUID, client: str) -> Row:
        found = await self._store.find(order, client)
        if found is None:
            raise ProblemError("not_found")
        return found


def _id_of(request: web.Request) -> UUID:
    try:
        return read_id(request.match_info["id"])
    except ValueError:
        raise ProblemError("not_found") from None
