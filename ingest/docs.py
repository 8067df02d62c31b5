"""The readable page: openapi.yaml as HTML, made once at the start, complete in itself."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import yaml

Node = Mapping[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); } h3 { margin-top: 2rem; }
code, pre { font: 0.88em/1.5 ui-monospace, monospace; } a { color: inherit; }
pre { border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: 0.35rem 0.6rem; text-align: left; vertical-align: top; }
tr:target { outline: 2px solid; } nav a { margin-right: 1rem; } .method { font-weight: 700; }
"""

_METHODS = ("get", "post", "put", "patch", "delete", "options")
_CODE = re.compile(r"`([^`]+)`")


def render(contract: str) -> tuple[bytes, str]:
    """
    Return the page for *contract*, and the content policy to serve it with.

    Each error code of the table in the description has an anchor of its name, which problem documents point to.
    """
    api = yaml.safe_load(contract)
    body = "".join(_page(api))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(api["info"]["title"])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _page(api: Node) -> Iterator[str]:
    info = api["info"]
    yield f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{_inline(info['summary'])}</p><nav>"
    operations = [
        (path, method, item[method]) for path, item in api["paths"].items() for method in _METHODS if method in item
    ]
    for path, method, operation in operations:
        yield f'<a href="#{escape(operation["operationId"])}">{method.upper()} {escape(path)}</a> '
    yield '<a href="/openapi.yaml">openapi.yaml</a></nav>'
    yield _text(info["description"])
    for tag in api["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2>{_text(tag['description'])}"
        for path, method, operation in operations:
            if tag["name"] in operation["tags"]:
                yield from _operation(api, path, method, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in api["components"]["schemas"].items():
        yield f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>{_text(schema.get("description", ""))}'
        yield _fields(schema)


def _operation(api: Node, path: str, method: str, operation: Node) -> Iterator[str]:
    yield (
        f'<h3 id="{escape(operation["operationId"])}"><span class="method">{method.upper()}</span> '
        f"<code>{escape(path)}</code></h3><p>{_inline(operation['summary'])}.</p>"
    )
    yield _text(operation.get("description", ""))
    if operation.get("security"):
        yield "<p>Needs <code>Authorization: Bearer KEY</code>.</p>"
    parameters = [_resolved(api, each) for each in operation.get("parameters", ())]
    if parameters:
        yield _table(
            ("parameter", "in", "meaning"),
            ((f"<code>{escape(each['name'])}</code>", each["in"], _inline(each["description"])) for each in parameters),
        )
    if "requestBody" in operation:
        for media_type, content in operation["requestBody"]["content"].items():
            yield f"<p>Body: <code>{escape(media_type)}</code>, {_type(content['schema'])}</p>"
            yield from _examples(content)
    rows = []
    shown: list[str] = []
    for status, given in operation["responses"].items():
        response = _resolved(api, given)
        rows.append((f"<code>{status}</code>", _inline(response["description"])))
        if status.startswith("2"):
            for content in response.get("content", {}).values():
                shown += _examples(content)
    yield _table(("status", "meaning"), iter(rows))
    yield from shown


def _resolved(api: Node, node: Node) -> Node:
    """Return what *node* points to, if it is a reference into the document, else itself."""
    if "$ref" not in node:
        return node
    found: Any = api
    for step in node["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    target: Node = found
    return target


def _examples(content: Node) -> Iterator[str]:
    if "example" in content:
        yield f"<pre>{_json(content['example'])}</pre>"
    for example in content.get("examples", {}).values():
        yield f"<p>{_inline(example['summary'])}:</p><pre>{_json(example['value'])}</pre>"


def _json(value: object) -> str:
    return escape(json.dumps(value, indent=2, ensure_ascii=False))


def _fields(schema: Node) -> str:
    required = schema.get("required", ())
    return _table(
        ("field", "type", "meaning"),
        (
            (
                f"<code>{escape(name)}</code>" + ("" if name in required else " (optional)"),
                _type(field),
                _inline(field.get("description", "")),
            )
            for name, field in schema.get("properties", {}).items()
        ),
    )


def _type(schema: Node) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for together, word in (("allOf", " and "), ("anyOf", " or ")):
        if together in schema:
            return word.join(_type(each) for each in schema[together]) + _bounds(schema)
    if "const" in schema:
        return f"<code>{_json(schema['const'])}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kinds = schema.get("type", "any")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if text == "array":
        text = f"array of {_type(schema['items'])}"
    return text + (f" ({escape(schema['format'])})" if "format" in schema else "") + _bounds(schema)


def _bounds(schema: Node) -> str:
    bounds = [
        f"{word} {schema[name]:,}"
        for name, word in (("minLength", "at least"), ("maxLength", "at most"))
        if name in schema
    ]
    return f", {' and '.join(bounds)} characters" if bounds else ""


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return ""
    return f"<table><thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead><tbody>{body}</tbody></table>"


def _text(markdown: str) -> str:
    """Return the little Markdown that openapi.yaml uses as HTML: headings, lists, tables, paragraphs, code."""
    return "".join(map(_block, re.split(r"\n\s*\n", markdown.strip())))


def _block(block: str) -> str:
    if not block:
        return ""
    if block.startswith("## "):
        return f"<h2>{_inline(block[3:])}</h2>"
    if block.startswith("- "):
        items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
        return f"<ul>{''.join(f'<li>{_inline(item.strip())}</li>' for item in items)}</ul>"
    if block.startswith("|"):
        return _markdown_table(block.splitlines())
    return f"<p>{_inline(block)}</p>"


def _markdown_table(lines: list[str]) -> str:
    head, _rule, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = [f"<table><thead><tr>{''.join(f'<th>{_inline(cell)}</th>' for cell in head)}</tr></thead><tbody>"]
    for row in rows:
        code = _CODE.fullmatch(row[0])
        anchor = f' id="{escape(code[1])}"' if code else ""
        found.append(f"<tr{anchor}>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>")
    return "".join(found) + "</tbody></table>"


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text.strip(), quote=False))
