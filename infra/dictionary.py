"""
The data dictionary, for whoever reads results: made from the schema files, so that it cannot say anything else.

`python -m infra.dictionary` writes it anew; a test asks for that.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from infra.contract import DICTIONARY, read_schema
from schemas.topics import REQUESTED, RESULTS

Schema = Mapping[str, Any]

_HEAD = f"""# Data dictionary

What stands in the records of relevo, field by field. Made from the JSON Schema files beside it; `asyncapi.yaml` tells
of topics, keys and headers. Names with a dot are fields of an object, `[]` stands for each item of an array.

Reading `{RESULTS.name}`:

- Fold by `event_id`: a record may come twice.
- Of one `id`, the record with the highest `seq` says where it stands. Records may overtake each other; `seq` does not.
- Exactly one record of an `id` is `terminal`, but for a `sent` that later `bounced`.
- `rejected` records have `seq` 0. They tell of requests that never became a notification; count them apart.
- Leave out `test` records.
"""


def dictionary() -> str:
    """Return the page, Markdown."""
    results = read_schema(RESULTS)
    status = results["properties"]["status"]
    reason = results["properties"]["reason"]["properties"]
    error = results["properties"]["errors"]["items"]["properties"]
    return "\n".join(
        (
            _HEAD,
            f"## `{RESULTS.name}` (version {results['version']})\n",
            f"{results['description']}\n",
            _fields(results),
            "## States (`status`)\n",
            _table(("state", "meaning"), ((_code(each["const"]), each["description"]) for each in status["oneOf"])),
            "## Reasons (`reason.class`)\n",
            _table(
                ("class", "meaning"), ((_code(each["const"]), each["description"]) for each in reason["class"]["oneOf"])
            ),
            "## Codes (`reason.code`)\n",
            _table(
                ("code", "class", "meaning"),
                ((_code(each["code"]), each["class"], each["description"]) for each in reason["code"]["x-codes"]),
            ),
            "## What can be wrong with a request (`errors[].code`)\n",
            _table(
                ("code", "meaning"), ((_code(each["code"]), each["description"]) for each in error["code"]["x-codes"])
            ),
            f"## `{REQUESTED.name}` (version {read_schema(REQUESTED)['version']})\n",
            f"{read_schema(REQUESTED)['description']}\n",
            _fields(read_schema(REQUESTED), read_schema(REQUESTED)["$defs"]["Request"]),
        )
    )


def _fields(root: Schema, of: Schema | None = None) -> str:
    rows = (
        (_code(name), _type(root, field), field["description"], _absent(field, required=required), _example(field))
        for name, field, required in _walk(of or root, "")
    )
    return _table(("field", "type", "meaning", "null or missing when", "example"), rows)


def _walk(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema, bool]]:
    """Yield each field with its path and whether it is required, depth first, in the order of the file."""
    for name, field in schema.get("properties", {}).items():
        yield f"{prefix}{name}", field, name in schema.get("required", ())
        yield from _walk(field, f"{prefix}{name}.")
        yield from _walk(field.get("items", {}), f"{prefix}{name}[].")


def _resolved(root: Schema, schema: Schema) -> dict[str, Any]:
    found: dict[str, Any] = dict(schema)
    while "$ref" in found:
        found = root["$defs"][found.pop("$ref").rpartition("/")[2]] | found
    return found


def _type(root: Schema, given: Schema) -> str:
    schema = _resolved(root, given)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(root, each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema:
        return " or ".join(map(_code, schema["enum"]))
    if "oneOf" in schema:
        return "text, one of the table below"
    if "const" in schema:
        return _code(schema["const"])
    words = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    kinds = schema.get("type", "any")
    named = [kinds] if isinstance(kinds, str) else [each for each in kinds if each != "null"]
    told = schema.get("title") or " or ".join(words.get(each, each) for each in named)
    formats = {"uuid": "UUID", "date-time": "time, RFC 3339", "email": "e-mail address"}
    return formats.get(schema.get("format", ""), told) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    if "format" in schema or "maxLength" not in schema:
        return ""
    return f", up to {schema['maxLength']:,} characters"


def _absent(schema: Schema, *, required: bool) -> str:
    if "x-null" in schema:
        return str(schema["x-null"])
    if "default" in schema:
        return f"it is {_code(schema['default'])}"
    return "-" if required else "not given"


def _example(schema: Schema) -> str:
    return _code(json.dumps(schema["examples"][0], ensure_ascii=False))


def _code(text: str) -> str:
    return f"`{text}`"


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    DICTIONARY.write_text(dictionary(), encoding="utf-8")
