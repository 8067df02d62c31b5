"""
Moments: times as requests write them, and as relevo keeps them.

A time is written in RFC 3339, either with its offset, or as a local time for which the request names a zone of the
IANA time zone database. A local hour that does not exist, because clocks are put forward, is moved forward by as much
(02:30 means 03:30); one that exists twice, because they are put back, means the first. The rules of the zones come from
the package tzdata, so that every process on every machine reads the same moment.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

# RFC 3339 5.6, without leap seconds, which no calendar of ours can hold. The last group is missing in a local time.
_WRITTEN = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)

_FORM = "must be a time with its offset, such as 2026-12-24T09:00:00-06:00 (RFC 3339)"


def read_moment(given: object, zone: ZoneInfo | None = None) -> datetime:
    """
    Return the moment that *given* names, in UTC, to the microsecond; what is finer is cut off.

    Args:
        given: a text, or a datetime that is aware already.
        zone: where a local time is meant; None: a local time is refused.
    Raises:
        ValueError: it names none. The sentence is for people and does not repeat the input.
    """
    found = given if isinstance(given, datetime) else _written(given)
    if found.tzinfo is None:
        if zone is None:
            raise ValueError(f"{_FORM}; or name the time_zone of this local time")
        found = found.replace(tzinfo=zone, fold=0)
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 in UTC") from None


def is_local(given: object) -> bool:
    """Whether *given* is a time as it is taken, but for its offset."""
    found = _WRITTEN.fullmatch(given) if isinstance(given, str) else None
    return found is not None and found.group(1) is None


def read_zone(given: object) -> ZoneInfo:
    """
    Return the time zone that *given* names.

    Raises:
        ValueError: it names none. The sentence is for people and does not repeat the input.
    """
    if not isinstance(given, str) or given not in _zone_names():
        raise ValueError("must be a name of the IANA time zone database, such as America/Mexico_City")
    return _zone(given)


def _written(given: object) -> datetime:
    if isinstance(given, str) and _WRITTEN.fullmatch(given):
        try:
            return datetime.fromisoformat(given.upper())
        except ValueError:  # no such day, or no such hour
            pass
    raise ValueError(_FORM)


@lru_cache(maxsize=1)
def _zone_names() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split())


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, key=name)


def _moment(given: object) -> datetime:
    try:
        return read_moment(given)
    except ValueError as error:
        raise PydanticCustomError("invalid_time", "{sentence}", {"sentence": str(error)}) from None


Moment = Annotated[datetime, BeforeValidator(_moment)]
