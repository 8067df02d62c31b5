"""How records look: one line for a person, one JSON object for a program. Pure."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from infra.cli.reading import Read
from schemas.addresses import mask_address
from schemas.records import header, timestamp
from schemas.topics import DEAD_LETTERS, RESULTS

_MORE_IDS_MAX = 3


def result_line(result: Mapping[str, Any]) -> str:
    """Return one result for a person: when, which, what, which attempt, why, how long since it was accepted."""
    # Anybody may write to a topic: nothing is expected of what stands there.
    reason, errors = result.get("reason"), result.get("errors")
    parts = [
        _cell(result.get("occurred_at"), 24),
        _cell(result.get("id") or "(no id)", 36),
        _cell(result.get("status"), 8),
        f"attempt {_cell(result.get('attempt'), 2)}",
        _cell(reason.get("code") if isinstance(reason, dict) else None, 20),
        f"{_cell(result.get('duration_ms'), 1)} ms",
        *(f"{each.get('pointer') or '/'} {each.get('detail')}" for each in items_of(errors)),
    ]
    return printable("  ".join(parts))


def _cell(value: object, width: int) -> str:
    return f"{'-' if value is None else str(value):<{width}}"


def line(record: Read) -> str:
    """Return a record of any topic for a person. Addresses are masked; subjects and bodies are not shown."""
    parsed = record.parsed()
    if record.topic == RESULTS.name and isinstance(parsed, dict):
        return result_line(parsed)
    place = f"{_moment(record):<24}  p{record.partition}@{record.offset}"
    if record.topic == DEAD_LETTERS.name:
        return printable(f"{place}  {_death(record)}  {len(record.value or b'')} bytes")
    items = items_of(parsed)
    if not items:
        return printable(f"{place}  unreadable, {len(record.value or b'')} bytes")
    shown = [f"{item.get('id') or '(no id)'} to {_masked(item.get('to'))}" for item in items[:_MORE_IDS_MAX]]
    more = len(items) - len(shown)
    return printable(f"{place}  {', '.join(shown)}{f' and {more} more' if more else ''}")


def document(record: Read) -> dict[str, Any]:
    """
    Return a record for a program: of results the value itself, of other topics the whole record.

    A value that is no JSON stands as base64 under `value_base64`; headers that are no text likewise lose what is not.
    """
    parsed = record.parsed()
    if record.topic == RESULTS.name and isinstance(parsed, dict):
        return parsed
    value: dict[str, Any] = {"value": parsed}
    if parsed is None and record.value not in {None, b"null"}:
        value = {"value_base64": base64.b64encode(record.value or b"").decode()}
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": None if record.timestamp_ms is None else _moment(record),
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "headers": {name: (raw or b"").decode(errors="replace") for name, raw in record.headers},
        **value,
    }


def ids_of(record: Read) -> set[str]:
    """Return the ids that a record speaks of, in lower case; the key counts, for where a value cannot be read."""
    found = {str(item["id"]).lower() for item in items_of(record.parsed()) if item.get("id")}
    if record.key is not None:
        found.add(record.key.decode(errors="replace").lower())
    return found


def items_of(parsed: object) -> list[dict[str, Any]]:
    """Return the objects that a value carries: one, or those of an array."""
    return [item for item in (parsed if isinstance(parsed, list) else [parsed]) if isinstance(item, dict)]


def printable(text: str) -> str:
    """Return *text* without control characters: what came from outside must not speak to the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _death(record: Read) -> str:
    headers = [(name, raw) for name, raw in record.headers if raw is not None]
    topic, partition, offset = (header(headers, f"dlq-original-{part}") for part in ("topic", "partition", "offset"))
    return f"{header(headers, 'dlq-reason')} from {topic} p{partition}@{offset}: {header(headers, 'dlq-message')}"


def _masked(address: object) -> str:
    return mask_address(address) if isinstance(address, str) else "(none)"


def _moment(record: Read) -> str:
    return "-" if record.timestamp_ms is None else timestamp(datetime.fromtimestamp(record.timestamp_ms / 1000, UTC))
