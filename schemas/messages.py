"""
The messages: what a client may ask for, and what relevo says about it.

`Content` is what is to be sent, the same at both doors. `Notification` is content with its identity.
`Result` is one record of notifications.results. How they become bytes is in schemas.records.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from schemas.addresses import ADDRESS_CHARS_MAX, check_address, check_recipient
from schemas.limits import (
    BODY_CHARS_MAX,
    CONTACT_MESSAGE_CHARS_MAX,
    METADATA_ENTRIES_MAX,
    METADATA_NAME_CHARS_MAX,
    METADATA_VALUE_CHARS_MAX,
    NAME_CHARS_MAX,
    SUBJECT_CHARS_MAX,
)
from schemas.moments import Moment
from schemas.states import State
from schemas.topics import REQUESTED

# C0, DEL, C1 and the two Unicode line breaks. In a header field each could end the line for some reader
# and begin a header of the sender's own (CWE-93).
_NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# In a text, tab and line ends are at home; the other controls are refused by mail servers and by Postgres.
_NOT_IN_A_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _one_line(text: str) -> str:
    if _NOT_IN_A_LINE.search(text):
        raise PydanticCustomError("control_character", "must be one line without control characters")
    return _not_blank(text)


def _text(text: str) -> str:
    if _NOT_IN_A_TEXT.search(text):
        raise PydanticCustomError(
            "control_character", "must not contain control characters other than tab and line ends"
        )
    return _not_blank(text)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


def _address(text: str) -> str:
    try:
        return check_address(text)
    except ValueError as error:
        raise PydanticCustomError("invalid_address", "{sentence}", {"sentence": str(error)}) from None


def _recipient(address: str) -> str:
    try:
        return check_recipient(address)
    except ValueError as error:
        raise PydanticCustomError("unknown_scenario", "{sentence}", {"sentence": str(error)}) from None


def _metadata(entries: dict[str, Any]) -> dict[str, Any]:
    for name, value in entries.items():
        if not 1 <= len(name) <= METADATA_NAME_CHARS_MAX or _NOT_IN_A_LINE.search(name):
            raise PydanticCustomError(
                "invalid_name", f"a name must have 1 to {METADATA_NAME_CHARS_MAX} characters and no control characters"
            )
        # NUL is refused by Postgres, and so by everything that reads the results into a database.
        if isinstance(value, str) and (len(value) > METADATA_VALUE_CHARS_MAX or "\x00" in value):
            raise PydanticCustomError(
                "invalid_value", f"a text value must have at most {METADATA_VALUE_CHARS_MAX} characters and no NUL"
            )
    return entries


type_of_line = AfterValidator(_one_line)
Address = Annotated[str, Field(max_length=320), AfterValidator(_address)]
Text = Annotated[str, Field(max_length=BODY_CHARS_MAX), AfterValidator(_text)]
Metadata = Annotated[
    dict[str, str | bool | int | float | None], Field(max_length=METADATA_ENTRIES_MAX), AfterValidator(_metadata)
]


class Content(BaseModel):
    """
    What is to be sent, and to whom. The same at both doors.

    to: one address; one notification has one recipient. reply_to: where an answer should go.
    html: shown instead of body by readers that can. metadata: copied into every result, never looked at.
    scheduled_for: not before this moment; None: now. expires_at: not from this moment on; None: whenever it works.
    on_doubt: when the mail was handed over and the answer never seen, hold leaves it in doubt; resend sends it once
    more, with the same Message-ID: rather twice than never.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    to: Annotated[Address, AfterValidator(_recipient)]
    subject: Annotated[str, Field(max_length=SUBJECT_CHARS_MAX), type_of_line]
    body: Text
    html: Text | None = None
    reply_to: Address | None = None
    metadata: Metadata | None = None
    channel: Literal["email"] = "email"
    on_doubt: Literal["hold", "resend"] = "hold"
    scheduled_for: Moment | None = None
    expires_at: Moment | None = None


def ordinary_content(given: dict[str, Any]) -> Content | None:
    """
    Return what validating *given* as a `Content` would, if that is plain to see; None: it takes the validator.

    Names that are no field are not looked at. Never an error: what is wrong is the validator's to say. A test compares
    the two on generated requests.
    """
    to, subject, body = given.get("to"), given.get("subject"), given.get("body")
    if not (_is_address(to) and _is_line(subject) and _is_text(body)):
        return None
    values = {**_DEFAULTS, "subject": subject, "body": body}
    named = _REQUIRED
    if not _OPTIONAL.isdisjoint(given):
        chosen = _OPTIONAL & given.keys()
        if not all(name in _ORDINARY and _ORDINARY[name](given[name]) for name in chosen):
            return None
        values.update((name, given[name]) for name in chosen)
        named |= chosen
    try:
        values["to"] = check_recipient(check_address(to))
        if values["reply_to"] is not None:
            values["reply_to"] = check_address(values["reply_to"])
    except ValueError:
        return None
    return _trusted(values, named)


def trusted_content(values: dict[str, Any]) -> Content:
    """Return the content with *values*, one for each field, which were validated when they came; none is judged."""
    return _trusted(values, _NAMES)


def _trusted(values: dict[str, Any], named: frozenset[str]) -> Content:
    # What `model_construct` does at its end, without its look at every field.
    content = Content.__new__(Content)
    _set(content, "__dict__", values)
    _set(content, "__pydantic_fields_set__", set(named))
    _set(content, "__pydantic_extra__", None)
    _set(content, "__pydantic_private__", None)
    return content


def _is_address(text: object) -> TypeGuard[str]:
    return type(text) is str and len(text) <= ADDRESS_CHARS_MAX


def _is_line(text: object) -> bool:
    # What is printable has no control characters, no line breaks and no half of a surrogate pair.
    return type(text) is str and 0 < len(text) <= SUBJECT_CHARS_MAX and text.isprintable() and not text.isspace()


def _is_text(text: object) -> bool:
    if type(text) is not str or not 0 < len(text) <= BODY_CHARS_MAX or text.isspace():
        return False
    return text.isprintable() or text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable()


def _is_metadata(entries: object) -> bool:
    return (
        type(entries) is dict
        and len(entries) <= METADATA_ENTRIES_MAX
        and all(_is_entry(name, value) for name, value in entries.items())
    )


def _is_entry(name: object, value: object) -> bool:
    if type(name) is not str or not 0 < len(name) <= METADATA_NAME_CHARS_MAX or not name.isprintable():
        return False
    if type(value) is str:
        return len(value) <= METADATA_VALUE_CHARS_MAX and value.isprintable()
    return value is None or type(value) is bool or type(value) is int


_set = object.__setattr__  # Content is frozen
_REQUIRED = frozenset(name for name, field in Content.model_fields.items() if field.is_required())
_NAMES = frozenset(Content.model_fields)
_OPTIONAL = _NAMES - _REQUIRED
_DEFAULTS = {name: field.get_default() for name, field in Content.model_fields.items()}
# Which values of the optional fields are plain to see. Moments never are.
_ORDINARY: dict[str, Callable[[object], bool]] = {
    "html": lambda value: value is None or _is_text(value),
    "reply_to": lambda value: value is None or _is_address(value),
    "metadata": lambda value: value is None or _is_metadata(value),
    "channel": lambda value: type(value) is str and value == "email",
    "on_doubt": lambda value: type(value) is str and value in {"hold", "resend"},
}


class ContactRequest(BaseModel):
    """A visitor's contact form: who writes, how to answer, and what."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: Annotated[str, Field(max_length=NAME_CHARS_MAX), type_of_line]
    email: Address
    message: Annotated[str, Field(max_length=CONTACT_MESSAGE_CHARS_MAX), AfterValidator(_text)]


@dataclass(frozen=True, slots=True)
class Notification:
    """
    Content with its identity.

    id: the one identity at both doors. traceparent: the W3C trace context it came with, None when it had none.
    producer: which service asked for it, as far as that is known: the client at the HTTP door, what the record says of
    itself at the other. replay_of: the notification that this one makes up for.
    """

    id: UUID
    content: Content
    traceparent: str | None = None
    producer: str | None = None
    replay_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """
    Where on notifications.requested a notification stood, and by which door it came.

    index is its place in the array of that record, 0 for a lone object.
    """

    door: Literal["http", "kafka"]
    partition: int
    offset: int
    index: int

    def coordinates(self) -> str:
        """Return a short text that is different for every item of every record of the topic."""
        return f"{self.partition}:{self.offset}:{self.index}"

    def as_json(self) -> dict[str, Any]:
        """Return the form that stands in results."""
        return {
            "door": self.door,
            "topic": REQUESTED.name,
            "partition": self.partition,
            "offset": self.offset,
            "index": self.index,
        }


@dataclass(frozen=True, slots=True)
class Forward:
    """Where a notification stands on notifications.deduplicated; at: when it was put there, by the writer's clock."""

    at: datetime
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Reason:
    """
    Why a notification is in the state it is in.

    kind (`class` in results): accepted, transient, permanent, unknown, called_off, asked, invalid or conflict.
    code: stable, for programs, such as smtp_550 or connection_lost. smtp: the relay's words, without addresses,
    at most 512 characters; None when no relay spoke.
    """

    kind: Literal["accepted", "transient", "permanent", "unknown", "called_off", "asked", "invalid", "conflict"]
    code: str
    smtp: str | None = None


class Result(NamedTuple):
    """
    One record of notifications.results: one change of one notification's state, or one rejection.

    event_id is deterministic, so a record that was published twice folds away.
    id is None only for a rejection whose record had no readable id. seq rises with each change of one id.
    duration_ms runs from accepted_at to occurred_at. errors is there for rejections only.
    producer and replay_of: see Notification. test: its recipient is the simulator's.
    Never holds an address, a subject or a body.
    """

    event_id: UUID
    id: UUID | None
    seq: int
    status: State
    terminal: bool
    reason: Reason | None
    attempt: int
    channel: str
    source: Source | None
    recipient_hash: str | None
    accepted_at: datetime
    occurred_at: datetime
    duration_ms: int
    trace_id: str | None
    metadata: dict[str, Any] | None
    producer: str | None = None
    replay_of: UUID | None = None
    errors: tuple[dict[str, str], ...] = ()
    test: bool = False
