"""The handlers of what is only read: the status of one notification, perhaps waited for, and lists of many."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from aiohttp import hdrs, web

from ingest.access import Access
from ingest.answers import json_response
from ingest.exchange import EXCHANGE
from ingest.list_store import ListStore
from ingest.lists import page_path, read_query
from ingest.ownership import may_read
from ingest.parameters import Parameters, whole_number
from ingest.problems import ProblemError
from ingest.store import Store
from ingest.timeline import status_document
from ingest.waiting import WAIT_S_MAX, Waiting
from schemas.validation import read_id


class Reading:
    """What became of notifications. A client sees its own, and those that are no client's."""

    def __init__(self, *, store: Store, lists: ListStore, waiting: Waiting, access: Access) -> None:
        self._store = store
        self._lists = lists
        self._waiting = waiting
        self._access = access

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/notifications/{id}, with ?wait=S as soon as it is finished, but after S seconds at the latest."""
        client = self._access.client_of(request.headers, request.remote)
        parameters = Parameters(request.query, known={"wait"})
        wait_s = parameters.one("wait", "out_of_range", whole_number(0, WAIT_S_MAX))
        parameters.check()
        notification_id = notification_id_of(request)
        document = status_document(await visible_history(self._store, notification_id, client))
        if wait_s and not document["terminal"]:
            if self._waiting.full:
                raise ProblemError("too_many_waiting")
            await self._waiting.until_terminal(notification_id, within_s=wait_s, gone=lambda: _is_gone(request))
            document = status_document(await visible_history(self._store, notification_id, client))
        return json_response(document)

    async def page(self, request: web.Request) -> web.Response:
        """GET /api/notifications."""
        client = self._access.client_of(request.headers, request.remote)
        page = await self._lists.page(read_query(request.query), client)
        following = None if page.next is None else page_path(page.next)
        headers: dict[str, str] = {} if following is None else {hdrs.LINK: f'<{following}>; rel="next"'}
        return json_response({"items": page.items, "next": following}, headers=headers)


def notification_id_of(request: web.Request) -> UUID:
    """
    Return the id in the path of *request*.

    Raises:
        ProblemError: not_found; it is none.
    """
    try:
        notification_id = read_id(request.match_info["id"])
    except ValueError:
        raise ProblemError("not_found") from None
    request[EXCHANGE].notification_id = notification_id
    return notification_id


async def visible_history(store: Store, notification_id: UUID, client: str) -> Sequence[dict[str, Any]]:
    """
    Return what `Store.history` knows of one notification.

    Raises:
        ProblemError: not_found; there is none, or it is not *client*'s to see.
    """
    history = await store.history(notification_id)
    if not history or not may_read(history[0], client):
        raise ProblemError("not_found")
    return history


def _is_gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()
