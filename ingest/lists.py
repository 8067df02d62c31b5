"""
Lists: what may be asked of `GET /api/notifications`, and the cursor that leads from page to page. Pure.

A cursor holds the place where its page ended and the filters of the first page, so that it needs nothing beside it, and
of a recipient only the number that the index knows: an address is neither repeated to who asked, nor left in the logs
of proxies page after page. Its place is that of a notification that the page showed, or between two, of which it says
nothing.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from multidict import MultiMapping

from ingest.parameters import Parameters, moment, whole_number
from schemas.addresses import ADDRESS_CHARS_MAX, check_address
from schemas.states import IN_LEDGER, State
from schemas.validation import read_producer

LIMIT_MAX = 200
LIMIT_DEFAULT = 50

PATH = "/api/notifications"

_FILTERS = frozenset({"status", "door", "producer", "from", "to", "recipient"})
_KNOWN = _FILTERS | {"limit", "cursor"}

_STATES = {state.value: state for state in IN_LEDGER}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CHECK_BYTES = 8
_CURSOR_CHARS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Filters:
    """
    What is looked for; what is None or empty does not matter.

    accepted_from is within, accepted_to is not. recipient: as its client wrote it, for the first page;
    recipient_key: the same as the index knows it, for all others.
    """

    states: tuple[State, ...] = ()
    door: str | None = None
    producer: str | None = None
    accepted_from: datetime | None = None
    accepted_to: datetime | None = None
    recipient: str | None = None
    recipient_key: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of one notification in a list, in which the larger comes first: the newer, of one moment by the id."""

    accepted_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Query:
    """One page: at most *limit* that match *filters* and stand behind *after*, None: from the newest."""

    filters: Filters = Filters()
    limit: int = LIMIT_DEFAULT
    after: Position | None = None


def place_between(lower: Position, upper: Position) -> Position:
    """
    Return a place above *lower*, and not above *upper*, that tells as little of the two as such a place can.

    It is the leading bits of *upper* as far as the first in which *lower* has another one, and zeros.
    """
    if lower.accepted_at < upper.accepted_at:
        micros = _cut(_micros(lower.accepted_at), _micros(upper.accepted_at))
        return Position(_EPOCH + micros * _MICROSECOND, UUID(int=0))
    return Position(upper.accepted_at, UUID(int=_cut(lower.id.int, upper.id.int)))


def _cut(lower: int, upper: int) -> int:
    tail_bits = (lower ^ upper).bit_length() - 1
    return upper >> tail_bits << tail_bits


def read_query(given: MultiMapping[str]) -> Query:
    """
    Return the page that the parameters ask for.

    Raises:
        InvalidRequestError: with every error found.
    """
    parameters = Parameters(given, known=_KNOWN)
    limit = parameters.one("limit", "out_of_range", whole_number(1, LIMIT_MAX))
    if "cursor" in parameters.names():
        for name in sorted(parameters.names() & _FILTERS):
            parameters.refuse(name, "beside_cursor", "stands in the cursor already; send the cursor without it")
        continued = parameters.one("cursor", "invalid_cursor", read_cursor)
        parameters.check()
        assert continued is not None, "a cursor is there, and nothing was wrong with it"
        return continued if limit is None else replace(continued, limit=limit)
    filters = Filters(
        states=parameters.several("status", "unknown_value", _state),
        door=parameters.one("door", "unknown_value", _door),
        producer=parameters.one("producer", "invalid_producer", read_producer),
        accepted_from=parameters.one("from", "invalid_time", moment),
        accepted_to=parameters.one("to", "invalid_time", moment),
        recipient=parameters.one("recipient", "invalid_address", _recipient),
    )
    if filters.accepted_from and filters.accepted_to and filters.accepted_from >= filters.accepted_to:
        parameters.refuse("to", "empty_window", "must be later than `from`")
    parameters.check()
    return Query(filters, LIMIT_DEFAULT if limit is None else limit)


def cursor_of(query: Query) -> str:
    """Return the cursor for *query*, which has a place to go on from and names its recipient by its key, if at all."""
    filters, after = query.filters, query.after
    assert after is not None, "a cursor leads on from somewhere"
    assert filters.recipient is None or filters.recipient_key is not None
    held: dict[str, Any] = {
        "at": _micros(after.accepted_at),
        "id": after.id.hex,
        "n": query.limit,
        "s": [state.value for state in filters.states],
        "d": filters.door,
        "p": filters.producer,
        "f": None if filters.accepted_from is None else _micros(filters.accepted_from),
        "t": None if filters.accepted_to is None else _micros(filters.accepted_to),
        "r": filters.recipient_key,
    }
    raw = orjson.dumps({name: value for name, value in held.items() if value not in (None, [])})
    return base64.urlsafe_b64encode(_check(raw) + raw).decode().rstrip("=")


def read_cursor(text: str) -> Query:
    """
    Return what `cursor_of` was given.

    Raises:
        ValueError: it is none of ours, or was changed. The check has no secret: whoever makes up a cursor sees
            nothing that a query would not show.
    """
    wrong = ValueError("is no cursor that was given out here; take it from `next` as it stands")
    if not text.isascii() or len(text) > _CURSOR_CHARS_MAX:
        raise wrong
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        check, raw = decoded[:_CHECK_BYTES], decoded[_CHECK_BYTES:]
        if _check(raw) != check:
            raise wrong
        held = orjson.loads(raw)
        filters = Filters(
            states=tuple(_STATES[name] for name in held.get("s", ())),
            door=None if "d" not in held else _door(held["d"]),
            producer=read_producer(held.get("p")),
            accepted_from=_of_micros(held.get("f")),
            accepted_to=_of_micros(held.get("t")),
            recipient_key=None if "r" not in held else _key(held["r"]),
        )
        after = Position(_EPOCH + held["at"] * _MICROSECOND, UUID(held["id"]))
        query = Query(filters, whole_number(1, LIMIT_MAX)(str(held["n"])), after)
        # One spelling for each cursor: base64 ignores some bits of its last letter.
        if cursor_of(query) != text:
            raise wrong
    except (ValueError, KeyError, TypeError, OverflowError, AttributeError, binascii.Error):
        raise wrong from None
    return query


def page_path(query: Query) -> str:
    """Return the address of the page that *query* asks for, which goes on from somewhere."""
    return f"{PATH}?cursor={cursor_of(query)}"


def _state(text: str) -> State:
    if text in _STATES:
        return _STATES[text]
    raise ValueError(f"must be one or more of {', '.join(_STATES)}")


def _door(text: str) -> str:
    if text in {"http", "kafka"}:
        return text
    raise ValueError("must be http or kafka")


def _recipient(text: str) -> str:
    if len(text) > ADDRESS_CHARS_MAX:
        raise ValueError("not exactly one e-mail address such as name@example.org")
    return check_address(text)


def _key(given: object) -> int:
    if type(given) is int and -(2**63) <= given < 2**63:
        return given
    raise ValueError("no key")


def _check(raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_CHECK_BYTES, person=b"relevo.cursor").digest()


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _of_micros(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + micros * _MICROSECOND
