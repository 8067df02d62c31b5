"""
Fuzzed values of records on notifications.requested: good ones, bad ones, and ones that are both, by a seed.

What they are is not said: who uses them compares what two judges make of them.
"""

import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import UUID

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# By field: what a producer may well write there, right or wrong.
_ADDRESSES = [
    *(
        "a@example.org",
        "ñandú@example.org",
        "用户@例え.jp",
        "o'brien@example.org",
        "a+b@EXAMPLE.org",
        "A@xn--bcher-kva.de",
    ),
    *("a@example.org,b@example.org", "Name <a@example.org>", "nobody", "@", "a@", "@b.org", "a@b", "a b@example.org"),
    *(
        '"q"@example.org',
        "a@[127.0.0.1]",
        "a@example.org\r\nBcc: b@example.org",
        "",
        " a@example.org",
        "a@example.org ",
    ),
    *("x" * 64 + "@example.org", "x" * 65 + "@example.org", "a@" + "b" * 63 + ".org", "a@" + "b" * 64 + ".org"),
    *("a@" + "b." * 124 + "org", "a@" + "b." * 200 + "org", "a\u202e@example.org", "a@exa\u0000mple.org", "a@b..org"),
]
_RECIPIENTS = [*_ADDRESSES, "sim+ok@simulator.invalid", "sim+nope@simulator.invalid", "SIM+OK@Simulator.Invalid"]
_LINES = [
    *("Alerta", "ñ🏃", " s ", "", " ", "\t", "\u2003", "a\nb", "a\r\nb", "\u0000", "a\u007f", "a\u0085b", "a\u2028b"),
    *("x" * 998, "x" * 999, "🏃" * 998, "🏃" * 999, "\ufeff", "\u200b", "a\u001b[31m"),
]
_TEXTS = [
    *(
        "Se ha detectado.",
        "a\r\nb\tc\rd",
        "\n",
        "\r\n\t ",
        "",
        "\u0000",
        "\u000b",
        "\u000c",
        "a\u001bb",
        "\u0085",
        "\u2028",
    ),
    *("x" * 65_536, "x" * 65_537, "ñ" * 65_536, "<p>x</p>", "\u001f"),
]
_METADATA = [
    *({}, {"order": 17, "vip": True, "ratio": 0.1, "none": None, "text": "ñ"}, {"": 1}, {"x" * 64: 1}, {"x" * 65: 1}),
    *({"a\nb": 1}, {"a": "x" * 256}, {"a": "x" * 257}, {"a": "\u0000"}, {"a": "\n"}, {"a": []}, {"a": {"b": 1}}),
    *({f"n{n}": n for n in range(20)}, {f"n{n}": n for n in range(21)}, {"a": 2**63 - 1}, {"a": -(2**63)}),
    *({"a": 1e308}, {"a": 5e-324}, {"a": -0.0}, {"/~": "x"}, {"\u2028": 1}, {"a": "\u2028"}, []),
]
_MOMENTS = [
    *("2026-12-24T09:00:00-06:00", "2026-12-24T15:00:00Z", "2026-12-24T15:00:00.123456Z", "2020-01-01T00:00:00Z"),
    *("2026-12-24", "2026-12-24T09:00:00", "2026-12-24 09:00:00Z", "20261224T090000Z", "2026-13-01T00:00:00Z"),
    *(
        "2026-02-30T00:00:00Z",
        "2026-12-24T24:00:00Z",
        "2026-12-24T09:00:60Z",
        "2026-12-24T09:00Z",
        "9999-12-31T23:59:59Z",
    ),
    *("0001-01-01T00:00:00+14:00", "2026-12-24T09:00:00+24:00", "2026-W52-4T09:00:00Z", "", "soon", "\u0662026"),
]
_SCHEMAS = [
    *(
        "notifications.requested/1",
        "notifications.requested/1.7",
        "notifications.requested/2",
        "notifications.results/1",
    ),
    *("notifications.requested/", "1", "", "notifications.requested/1/2", "notifications.requested/10", "/1"),
]
_TRACES = [TRACE, TRACE.upper(), "", "\u0000", "x" * 1000]
_PRODUCERS = ["billing", "/billing/invoices", "x" * 128, "x" * 129, "", "a\nb", "ñ", " "]
_STRANGE: list[Any] = [None, True, False, 0, 1, -1.5, "", "x", [], {}, [[]], {"a": {}}, 2**62, "\u0000"]

CANDIDATES: dict[str, list[Any]] = {
    "to": _RECIPIENTS,
    "subject": _LINES,
    "body": _TEXTS,
    "html": [*_TEXTS, None],
    "reply_to": [*_ADDRESSES, None],
    "metadata": [*_METADATA, None],
    "channel": ["email", "sms", "EMAIL", ""],
    "on_doubt": ["hold", "resend", "Hold", ""],
    "scheduled_for": [*_MOMENTS, None],
    "expires_at": [*_MOMENTS, None],
    "time_zone": ["America/Mexico_City", "Europe/Madrid", "Nowhere/Else", "", "../etc/passwd", None],
    "schema": _SCHEMAS,
    "traceparent": _TRACES,
    "producer": _PRODUCERS,
    "unknown_field": [1],
}

# What no encoder writes. {} takes an id.
_RAW = [
    *('{"id": "{}", "id": "{}", "to": "a@example.org", "subject": "s", "body": "b"}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "metadata": {"n": NaN}}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "metadata": {"n": 1e999}}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "metadata": {"n": 9223372036854775808}}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "n": ' + "9" * 5000 + "}",),
    *('{"id": "{}", "to": "a@example.org", "subject": "\\ud800", "body": "b"}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "\\ud83c\\udfc3", "body": "b"}',),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "deep": ' + "[" * 200 + "]" * 200 + "}",),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b", "deep": ' + "[" * 50_000 + "]" * 50_000 + "}",),
    *('{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b",}',),
    *(
        '{"id": "{}", "to": "a@example.org", "subject": "s", "body": "b"} ',
        "[" * 20_000,
        "[1,2",
        "{",
        '"{}"',
        "null",
        "42",
    ),
    *("", " ", "[]", "[[]]", "[{}]", "\ufeff{}", "true", "[" + "]" * 10, "{}" * 2, "[,]", "[1,]"),
]


def new_id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def request(rng: random.Random) -> dict[str, Any]:
    """Return a good request of its own."""
    return {"id": new_id(rng), "to": f"t{rng.getrandbits(48):x}@example.org", "subject": "Alerta", "body": "Se ha."}


def fuzzed_request(rng: random.Random) -> Any:
    """Return one request, perhaps a good one."""
    made: Any = request(rng)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        name = rng.choice(list(CANDIDATES))
        made[name] = rng.choice(CANDIDATES[name])
    match rng.randrange(20):
        case 0:
            made.pop(rng.choice(list(made)))
        case 1:
            made[rng.choice([*CANDIDATES, "id"])] = rng.choice(_STRANGE)
        case 2:
            made["id"] = rng.choice(
                [made["id"].upper(), made["id"].replace("-", ""), "{" + made["id"] + "}", 7, "", "x" * 36]
            )
        case 3:
            return rng.choice(_STRANGE)
    return made


def fuzzed_value(rng: random.Random) -> bytes:
    """Return the value of one record: one request, an array of them, something like it, or garbage."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.randint(1, 300))
    if kind == 1:
        text = rng.choice(_RAW)
        return text.replace('"{}"', f'"{new_id(rng)}"').encode("utf-8", "surrogatepass")
    if kind == 2:
        raw = _dumps(rng, fuzzed_request(rng))
        return _damaged(rng, raw)
    if kind <= 5:
        items = [fuzzed_request(rng) for _ in range(rng.choice([1, 2, 3, 8]))]
        if kind == 3 and rng.random() < 0.3:
            parts = [_dumps(rng, each) for each in items]
            parts[rng.randrange(len(parts))] = rng.choice(_RAW[:9]).replace('"{}"', f'"{new_id(rng)}"').encode()
            return b"[" + b",".join(parts) + b"]"
        return _dumps(rng, items)
    return _dumps(rng, fuzzed_request(rng))


def fuzzed_headers(rng: random.Random) -> list[tuple[str, str]]:
    """Return headers of one record, often none: those of a CloudEvent, right or wrong, and a trace context."""
    headers = []
    if rng.random() < 0.3:
        version = rng.choice(["1.0", "1.0", "1.0", "1.1", "0.3", "2.0", "", "one"])
        headers.append(("ce_specversion", version))
        if rng.random() < 0.8:
            headers.append(("ce_id", rng.choice([new_id(rng), "not a uuid", ""])))
        if rng.random() < 0.8:
            headers.append(("ce_source", rng.choice(["/billing", "urn:x", "x" * 129, "ñ"])))
    if rng.random() < 0.2:
        headers.append(("traceparent", rng.choice([TRACE, "nonsense"])))
    return headers


def fuzzed_values(seed: int, number: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(number):
        yield fuzzed_value(rng)


def _dumps(rng: random.Random, value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1])).encode()


def _damaged(rng: random.Random, raw: bytes) -> bytes:
    damaged = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(damaged))
        match rng.randrange(3):
            case 0:
                damaged[place] = rng.randrange(256)
            case 1:
                del damaged[place : place + rng.randint(1, 10)]
            case _:
                damaged[place:place] = rng.randbytes(rng.randint(1, 4))
        if not damaged:
            break
    return bytes(damaged)
