"""The handlers that call a notification off, or have it sent at another time, until somebody has claimed it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from infra.logs import get_logger
from infra.metrics import OUTCOMES
from ingest.access import Access
from ingest.answers import json_response
from ingest.exchange import EXCHANGE
from ingest.ownership import may_change
from ingest.problems import ProblemError
from ingest.reading import notification_id_of
from ingest.requests import read_json
from ingest.scheduling_store import RESCHEDULINGS_MAX, SchedulingStore
from ingest.store import Store
from ingest.timeline import status_document
from schemas.errors import FieldError
from schemas.states import State, states_before
from schemas.validation import read_new_schedule

# Between the attempt to change it and the look at why that failed, it may have moved on to where it can be changed.
_LOOKS_MAX = 3

log = get_logger()


class Scheduling:
    """Whether and when notifications are sent. What a client may not change, it does not find here."""

    def __init__(self, *, store: Store, changes: SchedulingStore, access: Access) -> None:
        self._store = store
        self._changes = changes
        self._access = access

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        await self._changes.close()

    async def cancel(self, request: web.Request) -> web.Response:
        """DELETE /api/notifications/{id}. What was cancelled before has the same answer."""
        client = self._access.client_of(request.headers, request.remote)
        notification_id = notification_id_of(request)
        for _ in range(_LOOKS_MAX):
            test = await self._changes.cancel(notification_id, client)
            history = await self._changeable(notification_id, client)
            state = State(history[0]["state"])
            if test is not None:
                log.info("notification_cancelled", notification_id=str(notification_id), client=client)
                if not test:
                    OUTCOMES.labels(State.CANCELLED.value).inc()
            if state is State.CANCELLED:
                return json_response(status_document(history))
            if state not in states_before(State.CANCELLED):
                break
        raise ProblemError("not_cancellable", [_is(state)])

    async def reschedule(self, request: web.Request) -> web.Response:
        """PATCH /api/notifications/{id}."""
        exchange = request[EXCHANGE]
        client = self._access.client_of(request.headers, request.remote)
        notification_id = notification_id_of(request)
        due_at = read_new_schedule(await read_json(request), at=datetime.now(UTC))
        for _ in range(_LOOKS_MAX):
            done = await self._changes.reschedule(notification_id, client, due_at)
            history = await self._changeable(notification_id, client)
            if done:
                log.info("notification_rescheduled", notification_id=str(notification_id), client=client)
            elif refusal := _refusal(history, due_at):
                raise refusal
            if done or _goes_now(history[0], due_at):
                return json_response(status_document(history))
        log.warning("rescheduling_overtaken", notification_id=str(notification_id), request_id=exchange.request_id)
        raise ProblemError("not_reschedulable", [_is(State(history[0]["state"]))])

    async def _changeable(self, notification_id: UUID, client: str) -> Sequence[dict[str, Any]]:
        history = await self._store.history(notification_id)
        if not history or not may_change(history[0], client):
            raise ProblemError("not_found")
        return history


def _goes_now(row: Mapping[str, Any], due_at: datetime | None) -> bool:
    """Whether it is on its way already, and is to be sent now."""
    return row["state"] == State.QUEUED and (due_at is None or due_at <= datetime.now(UTC))


def _refusal(history: Sequence[Mapping[str, Any]], due_at: datetime | None) -> ProblemError | None:
    row = history[0]
    state = State(row["state"])
    if state not in states_before(State.SCHEDULED):
        return ProblemError("not_reschedulable", [_is(state)])
    now = datetime.now(UTC)
    if row["expires_at"] is not None and row["expires_at"] <= max(due_at or now, now):
        return ProblemError(
            "invalid_request", [FieldError("/scheduled_for", "not_before_expiry", "must be before its expires_at")]
        )
    if history[-1]["event_seq"] is not None and history[-1]["event_seq"] > RESCHEDULINGS_MAX:
        why = FieldError("", "too_often", f"it was rescheduled {RESCHEDULINGS_MAX} times, and no more is possible")
        return ProblemError("not_reschedulable", [why])
    return None


def _is(state: State) -> FieldError:
    return FieldError("", f"is_{state}", f"its status is {state}")
