"""Webhooks: the handlers with which a client manages its own. Delivering is the feed's."""

from datetime import datetime
from typing import Any

import asyncpg
import orjson
from aiohttp import web

from infra.egress import Egress, ForbiddenAddressError
from ingest.access import Access
from ingest.problems import ProblemError
from ingest.rate_limit import RateLimits
from ingest.requests import read_json
from ingest.webhook_requests import Resend, read_delivery_query, read_resend, read_wanted
from ingest.webhook_store import Resent, Webhook, WebhookStore
from schemas.errors import FieldError, InvalidRequestError
from schemas.identity import new_id
from schemas.records import timestamp
from schemas.results import now
from schemas.webhooks import Receiver, new_secret

DELIVERIES_PATH = "/api/webhook/deliveries"


def _json(document: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, headers={"Content-Type": "application/json"})


class WebhookApi:
    """
    One client's webhook.

    Args:
        plain_allowed: whether http:// will do.
    """

    def __init__(
        self, *, access: Access, limits: RateLimits, store: WebhookStore, egress: Egress, plain_allowed: bool
    ) -> None:
        self._access = access
        self._limits = limits
        self._store = store
        self._egress = egress
        self._plain_allowed = plain_allowed

    async def close(self) -> None:
        """Disconnect, and wait for no lookup any more."""
        await self._store.close()
        self._egress.close()

    async def set(self, request: web.Request) -> web.Response:
        """PUT /api/webhook. The secret is in the answer when the webhook is new, and never again."""
        client = self._client(request)
        wanted = read_wanted(await read_json(request), plain_allowed=self._plain_allowed)
        await self._require_public(wanted.receiver)
        secret = new_secret()
        webhook, is_new = await self._store.set(client, wanted, secret=secret)
        return _json(_document(webhook, secret if is_new else None))

    async def show(self, request: web.Request) -> web.Response:
        """GET /api/webhook."""
        return _json(_document(await self._find(request), None))

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /api/webhook. What it was to be told of is no longer delivered."""
        await self._store.remove(self._client(request))
        return web.Response(status=204)

    async def rotate(self, request: web.Request) -> web.Response:
        """POST /api/webhook/rotate: a new secret, and both sign for a while."""
        secret = new_secret()
        webhook = await self._store.rotate(self._client(request), secret=secret)
        if webhook is None:
            raise ProblemError("not_found")
        return _json(_document(webhook, secret))

    async def test(self, request: web.Request) -> web.Response:
        """POST /api/webhook/test: an event that means nothing."""
        client, event_id = self._client(request), new_id()
        await self._limits.of_order(client)
        if not await self._store.add_test(client, event_id, now()):
            raise ProblemError("not_found")
        return _json({"webhook_id": str(event_id)}, status=202)

    async def resend(self, request: web.Request) -> web.Response:
        """POST /api/webhook/resend: by id, or by window."""
        webhook = await self._find(request)
        await self._limits.of_order(self._client(request))
        wanted = read_resend(await read_json(request))
        return _json(_resent(await self._store.resend(webhook.id, wanted), wanted), status=202)

    async def deliveries(self, request: web.Request) -> web.Response:
        """GET /api/webhook/deliveries, newest first."""
        webhook = await self._find(request)
        query = read_delivery_query(request.query)
        rows = await self._store.deliveries(webhook.id, query)
        items = [_delivery(row) for row in rows[: query.limit]]
        following = None
        if len(rows) > query.limit:
            state = "" if query.state is None else f"&state={query.state}"
            following = f"{DELIVERIES_PATH}?limit={query.limit}{state}&after={items[-1]['webhook_id']}"
        return _json({"items": items, "next": following})

    def _client(self, request: web.Request) -> str:
        return self._access.client_of(request.headers, request.remote)

    async def _find(self, request: web.Request) -> Webhook:
        webhook = await self._store.find(self._client(request))
        if webhook is None:
            raise ProblemError("not_found")
        return webhook

    async def _require_public(self, receiver: Receiver) -> None:
        """Refuse what leads inside. A look at each attempt decides; this one is so that nobody has to wait for it."""
        try:
            await self._egress.resolve(receiver.host, receiver.port)
        except ForbiddenAddressError:
            raise _refused_url("forbidden_address", "must name a host all of whose addresses are public") from None
        except OSError:
            raise _refused_url(
                "unresolvable", "names a host that could not be resolved; correct it or try again"
            ) from None


def _refused_url(code: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_request", [FieldError("/url", code, detail)])


def _document(webhook: Webhook, secret: str | None) -> dict[str, Any]:
    return {
        "url": webhook.url,
        "statuses": webhook.statuses,
        "created_at": timestamp(webhook.created_at),
        "previous_secret_until": _moment(webhook.previous_secret_until),
        "failing_since": _moment(webhook.failing_since),
        "disabled_at": _moment(webhook.disabled_at),
        "disabled_why": webhook.disabled_why,
        **({} if secret is None else {"secret": secret}),
    }


def _resent(resent: Resent, wanted: Resend) -> dict[str, Any]:
    following = None
    if resent.next_from is not None:
        assert wanted.until is not None, "only a window goes on"
        following = {
            "from": _exactly(resent.next_from),
            "to": _exactly(wanted.until),
            "failed_only": wanted.failed_only,
        }
    return {"deliveries": resent.deliveries, "next": following}


def _delivery(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "webhook_id": str(row["event_id"]),
        "notification_id": None if row["notification_id"] is None else str(row["notification_id"]),
        "type": row["type"],
        "state": row["state"],
        "attempt": row["attempt"],
        "occurred_at": timestamp(row["occurred_at"]),
        "next_attempt_at": _moment(row["next_attempt_at"]),
        "answered_at": _moment(row["answered_at"]),
        "answer": row["answer"],
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def _exactly(moment: datetime) -> str:
    # Not cut to milliseconds: the next window would begin before this one's end.
    return moment.isoformat().replace("+00:00", "Z")
