"""
Replays: what may be ordered with `POST /api/replays`, and how an order reads. Pure.

States move one way and each id has one end, so a replay makes a new notification, whose `replay_of` names the original.
A replay of a replay names the first original, too.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import orjson

from schemas.errors import FieldError, InvalidRequestError
from schemas.limits import REPLAY_IDS_MAX, REPLAY_NAME_CHARS_MAX, REPLAY_RATE_MAX, REPLAY_REASON_CHARS_MAX
from schemas.moments import read_moment
from schemas.records import timestamp
from schemas.states import IN_LEDGER, TERMINAL, State
from schemas.stored import Row
from schemas.validation import pointer, read_id, read_producer

PATH = "/api/replays"

RATE_DEFAULT = 100

_STATES = {state.value: state for state in IN_LEDGER if state in TERMINAL}
_WRONG_IDS_TOLD_MAX = 20
_NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Skip(StrEnum):
    """Why a candidate is not sent again; the first that holds. What *force* overrides stands in FORCEABLE."""

    UNKNOWN = "unknown"  # no such notification, or not this client's to see
    REPEATED = "repeated"  # the order named it, or the same original, before
    UNDER_WAY = "under_way"  # it, or a replay of it, has not come to its end
    SENT = "sent"  # it, or a replay of it, was sent
    IN_DOUBT = "in_doubt"  # it, or a replay of it, may have arrived
    CANCELLED = "cancelled"  # somebody called it off
    EXPIRED = "expired"  # nobody wants it any more at this time
    NO_CONTENT = "no_content"  # what was to be sent is not kept any more


FORCEABLE = frozenset({Skip.SENT, Skip.IN_DOUBT, Skip.CANCELLED, Skip.EXPIRED})


class OrderState(StrEnum):
    """How far an order is. The last two are its ends."""

    RUNNING = "running"
    CANCELLED = "cancelled"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which notifications: those named, or those that match everything that is not None or empty.

    Without ids only originals are looked at, their replays go with them. accepted_from is within, accepted_to is not.
    states: terminal ones.
    """

    ids: tuple[UUID, ...] = ()
    states: tuple[State, ...] = ()
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None
    producer: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what is given of it, under the names of the request."""
        given: dict[str, Any] = {
            "ids": [str(each) for each in self.ids],
            "status": [state.value for state in self.states],
            "from": None if self.accepted_from is None else self.accepted_from.isoformat(),
            "to": None if self.accepted_to is None else self.accepted_to.isoformat(),
            "producer": self.producer,
        }
        return {name: value for name, value in given.items() if value not in (None, [])}


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    One order as it was asked for.

    force: also what FORCEABLE names; it has a reason then. rate_per_s: at most so many are put on their way each
    second. asked_by: the person, as the client names them. dry_run: only count.
    """

    selection: Selection
    force: bool = False
    reason: str | None = None
    rate_per_s: int = RATE_DEFAULT
    asked_by: str | None = None
    dry_run: bool = False

    def fingerprint(self) -> bytes:
        """Return 16 bytes that are equal for equal orders; see `schemas.identity.fingerprint`."""
        told = [self.selection.as_json(), self.force, self.reason, self.rate_per_s, self.asked_by]
        return hashlib.blake2b(orjson.dumps(told, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def read_selection(stored: Mapping[str, Any]) -> Selection:
    """Return what `Selection.as_json` made *stored* of."""
    begins, ends = stored.get("from"), stored.get("to")
    return Selection(
        ids=tuple(UUID(each) for each in stored.get("ids", ())),
        states=tuple(_STATES[name] for name in stored.get("status", ())),
        accepted_from=None if begins is None else read_moment(begins),
        accepted_to=None if ends is None else read_moment(ends),
        producer=stored.get("producer"),
    )


def read_wanted(given: object) -> Wanted:
    """
    Return the order that the parsed body *given* asks for.

    Raises:
        InvalidRequestError: with every error found.
    """
    if not isinstance(given, dict):
        raise InvalidRequestError("invalid_request", [FieldError("", "type", "must be a JSON object")])
    errors: list[FieldError] = []
    read: dict[str, Any] = {}
    for name, value in given.items():
        if name == "ids":
            read[name] = _ids(value, errors)
        elif name not in _READERS:
            errors.append(FieldError(pointer((name,)), "unknown_field", "is not a field here; remove it or correct it"))
        elif value is None:
            errors.append(FieldError(pointer((name,)), "type", "must not be null; leave it out"))
        else:
            code, reader = _READERS[name]
            try:
                read[name] = reader(value)
            except ValueError as error:
                errors.append(FieldError(pointer((name,)), code, str(error)))
    errors += _contradictions(given, read)
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    selection = Selection(
        read.get("ids") or (), read.get("status", ()), read.get("from"), read.get("to"), read.get("producer")
    )
    chosen = {name: read[name] for name in ("force", "reason", "rate_per_s", "asked_by", "dry_run") if name in read}
    return Wanted(selection, **chosen)


def order_document(order: Row) -> dict[str, Any]:
    """Return what a client reads of the row *order* of `replays`."""
    return {
        "id": str(order["id"]),
        "state": order["state"],
        "client": order["client"],
        "asked_by": order["asked_by"],
        "reason": order["reason"],
        "force": order["force"],
        "rate_per_s": order["rate_per_s"],
        "selection": order["selection"],
        "replayed": order["replayed"],
        "skipped": counts_of_skips(order["skipped"]),
        "created_at": timestamp(order["created_at"]),
        "finished_at": None if order["finished_at"] is None else timestamp(order["finished_at"]),
        "links": {"self": f"{PATH}/{order['id']}"},
    }


def counts_of_skips(counts: Mapping[str, int]) -> dict[str, int]:
    """Return every reason to skip with its count, 0 too."""
    return {reason.value: counts.get(reason.value, 0) for reason in Skip}


def _contradictions(given: Mapping[str, object], read: Mapping[str, Any]) -> list[FieldError]:
    found = []
    filters = [name for name in ("status", "from", "to", "producer") if name in given]
    if "ids" not in given and not filters:
        # A typing mistake must not send everything again that there ever was.
        found.append(FieldError("", "required", "must say which: ids, or one of status, from, to and producer"))
    if "ids" in given:
        found += [FieldError(pointer((name,)), "beside_ids", "cannot stand beside ids") for name in filters]
    if read.get("from") and read.get("to") and read["from"] >= read["to"]:
        found.append(FieldError("/to", "empty_window", "must be later than `from`"))
    if read.get("force") and "reason" not in given:
        found.append(FieldError("/reason", "required", "is required with force; it stays with the order"))
    return found


def _ids(given: object, errors: list[FieldError]) -> tuple[UUID, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= REPLAY_IDS_MAX:
        errors.append(FieldError("/ids", "invalid_ids", f"must be an array of 1 to {REPLAY_IDS_MAX} ids"))
        return ()
    found, wrong = [], []
    for place, each in enumerate(given):
        try:
            found.append(read_id(each))
        except ValueError as error:
            wrong.append(FieldError(pointer(("ids", place)), "invalid_uuid", str(error)))
    errors += wrong[:_WRONG_IDS_TOLD_MAX]
    return tuple(found)


def _states(given: object) -> tuple[State, ...]:
    if isinstance(given, list) and given and all(isinstance(name, str) and name in _STATES for name in given):
        return tuple(_STATES[name] for name in dict.fromkeys(given))
    raise ValueError(f"must be an array of one or more of {', '.join(_STATES)}")


def _flag(given: object) -> bool:
    if isinstance(given, bool):
        return given
    raise ValueError("must be true or false")


def _rate(given: Any) -> int:
    # 5.0 is a whole number to JSON; true is none, though it is to Python.
    if type(given) in {int, float} and given == int(given) and 1 <= given <= REPLAY_RATE_MAX:
        return int(given)
    raise ValueError(f"must be a whole number from 1 to {REPLAY_RATE_MAX}")


def _line(chars_max: int) -> Callable[[object], str]:
    def read(given: object) -> str:
        if isinstance(given, str) and len(given) <= chars_max and given.strip() and not _NOT_IN_A_LINE.search(given):
            return given
        raise ValueError(f"must be one line of 1 to {chars_max} characters, not blank, without control characters")

    return read


# By field: the code of the error when its reader raises ValueError, whose sentence goes with it.
_READERS: dict[str, tuple[str, Callable[[object], Any]]] = {
    "status": ("unknown_value", _states),
    "from": ("invalid_time", read_moment),
    "to": ("invalid_time", read_moment),
    "producer": ("invalid_producer", read_producer),
    "force": ("type", _flag),
    "dry_run": ("type", _flag),
    "reason": ("invalid_text", _line(REPLAY_REASON_CHARS_MAX)),
    "rate_per_s": ("out_of_range", _rate),
    "asked_by": ("invalid_text", _line(REPLAY_NAME_CHARS_MAX)),
}
