"""Webhooks: what may be asked about them, read from JSON and from parameters. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from multidict import MultiMapping

from ingest.parameters import Parameters, whole_number
from schemas.errors import FieldError, InvalidRequestError
from schemas.moments import read_moment
from schemas.states import State
from schemas.validation import pointer, read_id
from schemas.webhooks import DEFAULT_STATUSES, STATUSES, DeliveryState, Receiver, read_url

RESEND_IDS_MAX = 100

LIMIT_MAX = 100
LIMIT_DEFAULT = 50

_STATUSES = {status.value: status for status in STATUSES}
_STATES = {state.value: state for state in DeliveryState}

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a client wants to be told of which statuses."""

    receiver: Receiver
    statuses: tuple[State, ...]


@dataclass(frozen=True, slots=True)
class Resend:
    """
    What is to be delivered again: what tells of *ids*, or what occurred in the window, from within, until not.

    failed_only: nothing that was delivered.
    """

    ids: tuple[UUID, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    failed_only: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """One page of deliveries, newest first. after: the webhook-id that the page before ended with."""

    state: DeliveryState | None = None
    limit: int = LIMIT_DEFAULT
    after: UUID | None = None


class _Fields:
    """The fields of one body; every error at once."""

    def __init__(self, given: object, known: frozenset[str]) -> None:
        if not isinstance(given, dict):
            raise InvalidRequestError("invalid_request", [FieldError("", "type", "must be a JSON object")])
        self._given: dict[str, Any] = given
        self.errors = [
            FieldError(
                pointer((name,)), "unknown_field", "is not a field of this request; remove it or correct its name"
            )
            for name in given
            if name not in known
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def is_null(self, name: str) -> bool:
        return name in self._given and self._given[name] is None

    def refuse(self, path: tuple[str | int, ...], code: str, detail: str) -> None:
        self.errors.append(FieldError(pointer(path), code, detail))

    def one(self, name: str, code: str, read: Callable[[object], Value]) -> Value | None:
        """Return the value of *name* as *read* understands it; None: it is not there, or wrong, which is noted."""
        return self._read((name,), code, read, self._given[name]) if name in self._given else None

    def several(self, name: str, code: str, read: Callable[[object], Value], *, most: int) -> tuple[Value, ...]:
        """Return the different items of the array *name*, 1 to *most*; empty: it is not there, or wrong."""
        if name not in self._given:
            return ()
        values = self._given[name]
        if not isinstance(values, list):
            self.refuse((name,), "type", "must be an array")
            return ()
        if not 1 <= len(values) <= most:
            self.refuse((name,), "too_many" if values else "too_few", f"must have 1 to {most} entries")
            return ()
        found = [self._read((name, place), code, read, value) for place, value in enumerate(values)]
        return tuple(dict.fromkeys(value for value in found if value is not None))

    def check(self) -> None:
        if self.errors:
            raise InvalidRequestError("invalid_request", self.errors)

    def _read(
        self, path: tuple[str | int, ...], code: str, read: Callable[[object], Value], value: object
    ) -> Value | None:
        try:
            return read(value)
        except ValueError as error:
            self.refuse(path, code, str(error))
            return None


def read_wanted(given: object, *, plain_allowed: bool) -> Wanted:
    """
    Return what the body of `PUT /api/webhook` says. What its host resolves to is not looked at here.

    Raises:
        InvalidRequestError: with every error found.
    """
    fields = _Fields(given, frozenset({"url", "statuses"}))
    if "url" not in fields:
        fields.refuse(("url",), "required", "is required")
    receiver = fields.one("url", "invalid_url", lambda text: read_url(text, plain_allowed=plain_allowed))
    statuses = (
        () if fields.is_null("statuses") else fields.several("statuses", "unknown_value", _status, most=len(STATUSES))
    )
    fields.check()
    assert receiver is not None, "it is there, and nothing was wrong with it"
    return Wanted(receiver, statuses or DEFAULT_STATUSES)


def read_resend(given: object) -> Resend:
    """
    Return what the body of `POST /api/webhook/resend` says: ids, or a window.

    Raises:
        InvalidRequestError: with every error found.
    """
    fields = _Fields(given, frozenset({"ids", "from", "to", "failed_only"}))
    ids = fields.several("ids", "invalid_uuid", read_id, most=RESEND_IDS_MAX)
    since = fields.one("from", "invalid_time", read_moment)
    until = fields.one("to", "invalid_time", read_moment)
    failed_only = fields.one("failed_only", "type", _truth)
    if "ids" in fields and ("from" in fields or "to" in fields):
        fields.refuse((), "ids_or_window", "give either ids, or from and to")
    elif "ids" not in fields:
        for name in ("from", "to"):
            if name not in fields:
                fields.refuse((name,), "required", "is required, unless ids are given")
    if since is not None and until is not None and since >= until:
        fields.refuse(("to",), "empty_window", "must be later than from")
    fields.check()
    return Resend(ids, since, until, bool(failed_only))


def read_delivery_query(given: MultiMapping[str]) -> DeliveryQuery:
    """
    Return the page that the parameters of `GET /api/webhook/deliveries` ask for.

    Raises:
        InvalidRequestError: with every error found.
    """
    parameters = Parameters(given, known={"state", "limit", "after"})
    state = parameters.one("state", "unknown_value", _state)
    limit = parameters.one("limit", "out_of_range", whole_number(1, LIMIT_MAX))
    after = parameters.one("after", "invalid_uuid", read_id)
    parameters.check()
    return DeliveryQuery(state, LIMIT_DEFAULT if limit is None else limit, after)


def _status(given: object) -> State:
    if isinstance(given, str) and given in _STATUSES:
        return _STATUSES[given]
    raise ValueError(f"must be one of {', '.join(_STATUSES)}")


def _state(text: str) -> DeliveryState:
    if text in _STATES:
        return _STATES[text]
    raise ValueError(f"must be one of {', '.join(_STATES)}")


def _truth(given: object) -> bool:
    if isinstance(given, bool):
        return given
    raise ValueError("must be true or false")
