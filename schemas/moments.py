"""Moments: times as requests write them, and as relevo keeps them."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError


def read_moment(given: object) -> datetime:
    """
    Return the moment that *given* names: RFC 3339 with an offset, or a datetime that is aware already. In UTC.

    Raises:
        ValueError: it names none. The sentence is for people and does not repeat the input.
    """
    found = None
    if isinstance(given, datetime):
        found = given
    elif isinstance(given, str):
        try:
            found = datetime.fromisoformat(given)
        except ValueError:
            found = None
    if found is None or found.tzinfo is None:
        raise ValueError("must be a time with its offset, such as 2026-12-24T09:00:00-06:00 (RFC 3339)")
    return found.astimezone(UTC)


def _moment(given: object) -> datetime:
    try:
        return read_moment(given)
    except ValueError as error:
        raise PydanticCustomError("invalid_time", "{sentence}", {"sentence": str(error)}) from None


Moment = Annotated[datetime, BeforeValidator(_moment)]
