"""Statistics: what may be asked of `GET /api/stats`, and what is answered. Counts alone: no ids, no addresses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson
from aiohttp import web
from multidict import MultiMapping

from ingest.access import Access
from ingest.parameters import Parameters, moment
from schemas.errors import FieldError, InvalidRequestError
from schemas.records import timestamp

GROUPINGS = ("hour", "status", "channel", "producer")
BY_DEFAULT = ("hour", "status")
WINDOW_DEFAULT = timedelta(hours=24)
WINDOW_MAX = timedelta(days=31)
ROWS_MAX = 10_000

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """Whole hours from *begin* on and before *end*, in UTC, added up by each combination of *by*, in this order."""

    begin: datetime
    end: datetime
    by: tuple[str, ...]


class Counts(Protocol):
    """What is needed of the database; see ingest.stats_store.StatsStore."""

    async def counts(self, query: StatsQuery, client: str, *, rows_max: int) -> Sequence[Any]: ...


class Stats:
    """Answers with what the feed has counted."""

    def __init__(self, access: Access, counts: Counts) -> None:
        self._access = access
        self._counts = counts

    async def stats(self, request: web.Request) -> web.Response:
        """GET /api/stats."""
        client = self._access.client_of(request.headers, request.remote)
        query = read_stats_query(request.query, now=datetime.now(UTC))
        rows = await self._counts.counts(query, client, rows_max=ROWS_MAX + 1)
        if len(rows) > ROWS_MAX:
            detail = f"makes more than {ROWS_MAX} rows of this window; leave one out, or ask for a shorter one"
            raise InvalidRequestError("invalid_request", [FieldError("/by", "too_many_rows", detail)])
        return web.Response(
            body=orjson.dumps(stats_document(query, rows)), headers={"Content-Type": "application/json"}
        )


def read_stats_query(given: MultiMapping[str], *, now: datetime) -> StatsQuery:
    """
    Return what the parameters ask for; the window reaches to the full hours around it. Pure.

    Raises:
        InvalidRequestError: with every error found.
    """
    parameters = Parameters(given, known={"from", "to", "by"})
    begin = parameters.one("from", "invalid_time", _moment)
    end = parameters.one("to", "invalid_time", _moment)
    by = parameters.several("by", "unknown_value", _grouping)
    if not {"from", "to"} & parameters.wrong():
        end = _full_hour(end or now, up=True)
        begin = end - WINDOW_DEFAULT if begin is None else _full_hour(begin, up=False)
        if begin >= end:
            parameters.refuse("to", "empty_window", "must be later than `from`")
        elif end - begin > WINDOW_MAX:
            parameters.refuse("to", "window_too_long", f"must be within {WINDOW_MAX.days} days of `from`")
    parameters.check()
    assert begin is not None, "it was given, or has a default"
    assert end is not None, "as above"
    return StatsQuery(begin, end, by or BY_DEFAULT)


def stats_document(query: StatsQuery, rows: Sequence[Any]) -> dict[str, Any]:
    """Return the answer to *query*. Pure."""
    return {
        "from": timestamp(query.begin),
        "to": timestamp(query.end),
        "by": list(query.by),
        "rows": [{**{name: _said(row[name]) for name in query.by}, "count": row["count"]} for row in rows],
    }


def _said(value: datetime | str) -> str | None:
    return timestamp(value) if isinstance(value, datetime) else value or None


def _grouping(text: str) -> str:
    if text in GROUPINGS:
        return text
    raise ValueError(f"must be one or more of {', '.join(GROUPINGS)}")


def _moment(text: str) -> datetime:
    found = moment(text)
    if not 1970 <= found.year <= 9998:
        raise ValueError("must be of a year from 1970 to 9998")
    return found


def _full_hour(at: datetime, *, up: bool) -> datetime:
    begun = at.replace(minute=0, second=0, microsecond=0)
    return begun + _HOUR if up and begun < at else begun
