"""From parsed JSON to `Content`, or to every error at once. Both doors come through here."""

from datetime import datetime
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ValidationError

from schemas.errors import FieldError, InvalidRequestError
from schemas.identity import uuid_of
from schemas.limits import PRODUCER_CHARS_MAX
from schemas.messages import ContactRequest, Content, ordinary_content
from schemas.schedule import FIELDS, TIME_ZONE, read_schedule

# What the validator calls it: what we call it, and what to do about it. {…} is filled from the validator's context.
_CODES: dict[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "string_type": ("type", "must be a string"),
    "dict_type": ("type", "must be an object"),
    "string_unicode": ("lone_surrogate", "must be valid Unicode"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "too_long": ("too_many", "must have at most {max_length} entries"),
    "literal_error": ("unknown_value", "must be {expected}"),
    "finite_number": ("invalid_number", "must be a finite number"),
}
# Errors that our own validators raise carry their sentence with them.
_OWN = {
    *("control_character", "blank", "invalid_address", "unknown_scenario", "invalid_name", "invalid_time"),
    "invalid_value",
}

_NAME_CHARS_SHOWN_MAX = 64

# Taken once: asking a model for its fields costs as much as validating a request.
_CONTENT_NAMES = frozenset(Content.model_fields)

Model = TypeVar("Model", bound=BaseModel)


def read_content(given: object, *, accepts: frozenset[str] | None, at: datetime | None = None) -> Content:
    """
    Validate one request's content.

    Args:
        given: what the JSON text said. The identity (`id`) is not looked at here; see `read_id`.
        accepts: names that may stand beside those of Content; any other name is refused. None: others are
            ignored, as the Kafka contract says, so that a newer producer can talk to an older relevo.
        at: when it was asked for, from which on the horizon of its schedule counts; None: that is not judged. Never a
            clock for what may be read twice: what was accepted once must not be refused later.
    Raises:
        InvalidRequestError: with every error found.
    """
    if not isinstance(given, dict) or FIELDS.isdisjoint(given):
        if isinstance(given, dict) and (accepts is None or given.keys() <= _taken(accepts)):
            content = ordinary_content(given)
            if content is not None:
                return content
        return _read(Content, given, accepts)
    errors: list[FieldError] = []
    moments = read_schedule(given, errors, at=at)
    rest = {name: value for name, value in given.items() if name != TIME_ZONE}
    try:
        content = _read(Content, rest | moments, accepts)
    except InvalidRequestError as invalid:
        raise InvalidRequestError(invalid.code, [*invalid.errors, *errors]) from None
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    return content


@cache
def _taken(accepts: frozenset[str]) -> frozenset[str]:
    return accepts | _CONTENT_NAMES


def read_new_schedule(given: object, *, at: datetime) -> datetime | None:
    """
    Return the moment that a request to reschedule names, in UTC; None: now.

    Args:
        at: the present moment, from which on the horizon counts.
    Raises:
        InvalidRequestError: with every error found.
    """
    if not isinstance(given, dict):
        raise InvalidRequestError("invalid_request", [FieldError("", "type", "must be a JSON object")])
    errors = _unknown_names(given, frozenset({"scheduled_for", TIME_ZONE}))
    if "scheduled_for" not in given:
        errors.append(FieldError("/scheduled_for", "required", "is required; null means now"))
    found = read_schedule({name: given.get(name) for name in ("scheduled_for", TIME_ZONE)}, errors, at=at)
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    return found["scheduled_for"]


def read_contact(given: object) -> ContactRequest:
    """
    Validate one contact form. Unknown names are ignored: forms bring their own fields along.

    Raises:
        InvalidRequestError: with every error found.
    """
    return _read(ContactRequest, given, None)


def read_id(given: object) -> UUID:
    """
    Return the UUID that *given* spells in its canonical form of 36 characters, in either case.

    Raises:
        ValueError: it spells none. The sentence is for people and does not repeat the input.
    """
    if isinstance(given, str) and len(given) == 36:
        digits = given.replace("-", "")
        try:
            value = bytes.fromhex(digits)
        except ValueError:
            pass
        else:
            # Blanks would be passed over, hyphens may stand in wrong places.
            if len(digits) == 32 and len(value) == 16 and given[8] == given[13] == given[18] == given[23] == "-":
                return uuid_of(int.from_bytes(value))
    raise ValueError("must be a UUID such as 0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e")


def read_producer(given: object) -> str | None:
    """
    Return the name that a record gives its producer; None: it gives none.

    Raises:
        ValueError: it is no name. The sentence is for people and does not repeat the input.
    """
    if given is None:
        return None
    if isinstance(given, str) and 1 <= len(given) <= PRODUCER_CHARS_MAX and given.isascii() and given.isprintable():
        return given
    raise ValueError(f"must be a name of 1 to {PRODUCER_CHARS_MAX} printable ASCII characters")


def _read(model: type[Model], given: object, accepts: frozenset[str] | None) -> Model:
    if not isinstance(given, dict):
        raise InvalidRequestError("invalid_request", [FieldError("", "type", "must be a JSON object")])
    errors = [] if accepts is None else _unknown_names(given, accepts | model.model_fields.keys())
    try:
        found = model.model_validate(given)
    except ValidationError as invalid:
        errors += [_field_error(error) for error in invalid.errors(include_url=False, include_input=False)]
        raise InvalidRequestError("invalid_request", _without_repeats(errors)) from None
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    return found


def _unknown_names(given: dict[str, Any], known: frozenset[str]) -> list[FieldError]:
    return [
        FieldError(pointer((name,)), "unknown_field", "is not a field of this request; remove it or correct its name")
        for name in given
        if name not in known
    ]


def _field_error(error: Any) -> FieldError:
    # A union (a metadata value) reports one error for each member; the pointer stops at the value itself.
    location = error["loc"]
    if location and location[0] == "metadata" and len(location) > 1:
        return FieldError(pointer(location[:2]), "type", "must be a string, a number, true, false or null")
    kind = error["type"]
    if kind in _OWN:
        return FieldError(pointer(location), kind, error["msg"])
    code, detail = _CODES.get(kind, ("invalid", "is not valid"))
    return FieldError(pointer(location), code, detail.format(**error.get("ctx", {})))


def _without_repeats(errors: list[FieldError]) -> list[FieldError]:
    return list(dict.fromkeys(errors))


def pointer(path: tuple[str | int, ...]) -> str:
    """Return the JSON Pointer (RFC 6901) of *path*; a name that is too long or unprintable ends it early."""
    steps = []
    for step in path:
        text = str(step)
        # A pointer tells where, it must not become a way to echo what was sent.
        if len(text) > _NAME_CHARS_SHOWN_MAX or not text.isprintable():
            break
        steps.append("/" + text.replace("~", "~0").replace("/", "~1"))
    return "".join(steps)
