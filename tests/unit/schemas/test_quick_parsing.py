"""Ordinary texts are parsed quickly; nothing that the strict parser refuses comes through beside it."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import json_text
from schemas.errors import InvalidRequestError
from schemas.json_text import parse_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=5), each, max_size=4),
    max_leaves=10,
)


def both(raw):
    """What each of the parsers makes of *raw*: a value, written so that 1, 1.0 and true differ, or an error."""
    found = []
    for parse in (json_text._read_strictly, parse_json):
        try:
            found.append(repr(parse(raw)))
        except InvalidRequestError as invalid:
            found.append((invalid.code, invalid.errors))
    return found


@given(values)
def test_whatever_is_written_means_the_same_to_both(value):
    for raw in (
        json.dumps(value).encode(),
        json.dumps(value, indent=1).encode(),
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
    ):
        careful, quick = both(raw)
        assert careful == quick


@pytest.mark.parametrize(
    "raw",
    [
        *(b'{"a":1,"a":1}', b'[{"a":{"b":1,"b":2}}]', b'{"a":1,"\\u0061":2}'),
        *(b"9007199254740991", b"9007199254740993", b"9223372036854775807", b"9223372036854775808"),
        *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809", b"100000000000000000000"),
        *(b"1e999", b"-1e999", b"1E5", b"1.50", b"-0", b"-0.0", b"NaN", b"Infinity", b"0.1", b"01"),
        *(b'"\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b"\xef\xbb\xbf{}", b'"\x00"', b'"\\u0000"', b'"\x7f"'),
        *(b"[" * 300 + b"]" * 300, b"[" * 2000 + b"]" * 2000, b"[" * 100_000, b'{"a":' * 300 + b"1" + b"}" * 300),
        *(b"", b" ", b"{}x", b"[1,]", b'{"a":1} ', b"null", b'""'),
    ],
)
def test_what_is_strange_is_judged_by_the_strict_parser(raw):
    careful, quick = both(raw)
    assert careful == quick


def test_what_relevo_wrote_needs_no_second_look(monkeypatch):
    monkeypatch.delattr(json_text, "_read_strictly")
    value = [{"id": "a", "body": "ñ\u2028\n\x7f", "metadata": {"n": 1, "x": 0.5, "t": True, "none": None}}]
    assert parse_json(orjson.dumps(value)) == value
    # And neither does what a service in Python writes.
    del value[0]["metadata"]["x"]
    assert parse_json(json.dumps(value).encode()) == value


TEXTS = st.recursive(
    st.sampled_from(
        [
            "1",
            "-0",
            "1.5",
            "true",
            "null",
            '""',
            '"a"',
            '"\\""',
            '"\\\\"',
            '"\\\\\\""',
            '"\\u0022"',
            '"{\\"a\\":1}"',
            "01",
            '"\\ud800"',
        ]
    ),
    lambda each: (
        st.lists(each, max_size=3).map(lambda parts: "[" + ", ".join(parts) + "]")
        | st.lists(st.tuples(st.sampled_from(['"a"', '"b"', '"\\u0061"', '"x\\""']), each), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"
        )
    ),
    max_leaves=8,
)


@given(TEXTS)
def test_names_that_stand_twice_are_seen_whatever_the_strings_hold(text):
    careful, quick = both(text.encode())
    assert careful == quick
