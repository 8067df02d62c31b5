"""Schedules: the fields of a request that say when it may be sent, judged together. The same at both doors."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from schemas.errors import FieldError
from schemas.limits import SCHEDULE_DAYS_MAX
from schemas.moments import is_local, read_moment, read_zone

TIME_ZONE = "time_zone"
_MOMENTS = ("scheduled_for", "expires_at")

FIELDS = frozenset({TIME_ZONE, *_MOMENTS})


def read_schedule(
    given: Mapping[str, Any], errors: list[FieldError], *, at: datetime | None
) -> dict[str, datetime | None]:
    """
    Return the moments that *given* means by its scheduled_for and expires_at; None: not given, or wrong.

    Args:
        given: a request; names that are not in FIELDS are not looked at.
        errors: what is wrong is added to them.
        at: when it was asked for, from which on the horizon of SCHEDULE_DAYS_MAX counts; None: that is not judged.
    """
    zone = _read_zone(given, errors)
    found: dict[str, datetime | None] = {}
    for name in _MOMENTS:
        written = given.get(name)
        found[name] = None
        if written is None or (is_local(written) and zone is None and given.get(TIME_ZONE) is not None):
            # Of a local time in a zone that is wrong nothing more can be said.
            continue
        try:
            found[name] = read_moment(written, zone)
        except ValueError as error:
            errors.append(FieldError(f"/{name}", "invalid_time", str(error)))
    scheduled_for, expires_at = found["scheduled_for"], found["expires_at"]
    if scheduled_for is not None and at is not None and scheduled_for - at > timedelta(days=SCHEDULE_DAYS_MAX):
        errors.append(
            FieldError(
                "/scheduled_for", "too_far", f"must be at most {SCHEDULE_DAYS_MAX} days after the moment of the request"
            )
        )
    if scheduled_for is not None and expires_at is not None and expires_at <= scheduled_for:
        errors.append(FieldError("/expires_at", "not_after_schedule", "must be after scheduled_for"))
    return found


def _read_zone(given: Mapping[str, Any], errors: list[FieldError]) -> ZoneInfo | None:
    named = given.get(TIME_ZONE)
    if named is None:
        return None
    if not any(is_local(given.get(name)) for name in _MOMENTS):
        errors.append(
            FieldError("/time_zone", "without_local_time", "belongs to a local time, without an offset; remove it")
        )
        return None
    try:
        return read_zone(named)
    except ValueError as error:
        errors.append(FieldError("/time_zone", "unknown_time_zone", str(error)))
        return None
