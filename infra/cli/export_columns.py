"""
The columns of an export: a result, flattened. Their order and names stay; a new one goes to the end.

What is one object in the contract is one column for each of its fields: `reason_class`, `source_offset`. `metadata` and
`errors` are JSON as text. Nothing is in a column that is not in a result: no address, subject or body.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from schemas.results import parse_result

Kind = Literal["text", "int", "bool", "moment", "json"]


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column, and where in a result its value stands.

    kind: moment is a time in UTC with milliseconds. A value may be missing, unless it is *needed*.
    """

    name: str
    kind: Kind
    needed: bool = False
    within: str = ""

    @property
    def field(self) -> str:
        """The name of the field, in the result or in the object *within* it."""
        return self.name.removeprefix(f"{self.within}_") if self.within else self.name


COLUMNS: tuple[Column, ...] = (
    Column("event_id", "text", needed=True),
    Column("id", "text"),
    Column("seq", "int", needed=True),
    Column("status", "text", needed=True),
    Column("terminal", "bool", needed=True),
    Column("reason_class", "text", within="reason"),
    Column("reason_code", "text", within="reason"),
    Column("reason_smtp", "text", within="reason"),
    Column("attempt", "int", needed=True),
    Column("channel", "text", needed=True),
    Column("producer", "text"),
    Column("source_door", "text", within="source"),
    Column("source_partition", "int", within="source"),
    Column("source_offset", "int", within="source"),
    Column("source_index", "int", within="source"),
    Column("recipient_hash", "text"),
    Column("accepted_at", "moment", needed=True),
    Column("occurred_at", "moment", needed=True),
    Column("duration_ms", "int", needed=True),
    Column("trace_id", "text"),
    Column("replay_of", "text"),
    Column("test", "bool"),
    Column("metadata", "json"),
    Column("errors", "json"),
)

# Values in the order of COLUMNS.
Row = tuple[Any, ...]

_PLACES = {column.name: place for place, column in enumerate(COLUMNS)}
_TYPES: dict[str, type] = {"text": str, "int": int, "bool": bool}
_INT_MAX = 2**63 - 1


def row_of(value: bytes | None) -> Row:
    """
    Return the row of one record of notifications.results.

    Raises:
        ValueError: it is no result, or one of another major version.
    """
    result = parse_result(value)
    return tuple(_value(column, result) for column in COLUMNS)


def value_of(row: Row, name: str) -> Any:
    """Return what *row* has in the column *name*."""
    return row[_PLACES[name]]


def _value(column: Column, result: dict[str, Any]) -> Any:
    holder = result
    if column.within:
        holder = result.get(column.within) or {}
        if not isinstance(holder, dict):
            raise ValueError(f"{column.within} is no object")
    found = holder.get(column.field)
    if found is None:
        if column.needed:
            raise ValueError(f"{column.name} is missing")
        return None
    if column.kind == "json":
        return orjson.dumps(found).decode()
    if column.kind == "moment":
        return _moment(column, found)
    # A bool is an int to Python.
    if type(found) is not _TYPES[column.kind] or (isinstance(found, int) and abs(found) > _INT_MAX):
        raise ValueError(f"{column.name} is not {column.kind}")
    return found


def _moment(column: Column, found: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(found))
        if moment.tzinfo is None:
            raise ValueError("no offset")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{column.name} is no time") from None
