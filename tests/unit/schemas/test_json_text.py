"""JSON is taken strictly, and a flaw stays with the item that has it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import json_text
from schemas.errors import InvalidRequestError
from schemas.json_text import parse_items, parse_json
from schemas.limits import REQUESTS_PER_RECORD_MAX


def refusal(raw):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(raw)
    (error,) = caught.value.errors
    assert caught.value.code == "invalid_json"
    assert error.pointer == ""
    return error


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "syntax"),
        (b"{", "syntax"),
        (b"[1,]", "syntax"),
        (b"{'a': 1}", "syntax"),
        (b'{"a": 1} x', "syntax"),
        (b"{} {}", "syntax"),
        (b"01", "syntax"),
        (b'"\x01"', "syntax"),
        (b'"a\nb"', "syntax"),
        (b'"\\ud83"', "syntax"),
        (b"\xef\xbb\xbf{}", "syntax"),
        (b"\xc2\xa0[]", "syntax"),
        (b'{"a": "\xff"}', "encoding"),
        (b'{"a": "\xed\xa0\x80"}', "encoding"),
        (b'{"a":1}'.decode().encode("utf-16"), "encoding"),
        (b'{"a": 1, "a": 1}', "duplicate_name"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_name"),
        (b'[{"b": {"a": 1, "a": 2}}]', "duplicate_name"),
        (b"NaN", "invalid_number"),
        (b'{"a": Infinity}', "invalid_number"),
        (b"[-Infinity]", "invalid_number"),
        (b"1e400", "invalid_number"),
        (b'{"a": -1.5E999}', "invalid_number"),
        (b"9223372036854775808", "invalid_number"),
        (b"-9223372036854775809", "invalid_number"),
        (b"1" * 5000, "invalid_number"),
        (b'"\\ud800"', "lone_surrogate"),
        (b'"\\udc00\\ud800"', "lone_surrogate"),
        (b'{"\\ud800": 1}', "lone_surrogate"),
        (b'[{"a": ["\\udfff"]}]', "lone_surrogate"),
        (b"[" * 60_000, "too_deep"),
        (b'{"a":' * 60_000 + b"1" + b"}" * 60_000, "too_deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_refused_and_why(raw, code):
    assert refusal(raw).code == code


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b" [1, 2] \r\n", [1, 2]),
        (b'{"a": 9223372036854775807, "b": -9223372036854775808}', {"a": 2**63 - 1, "b": -(2**63)}),
        (b"[1.5e300, 1e-400, -0.0]", [1.5e300, 0.0, 0.0]),
        ('"\\ud83d\\ude00 ñ 😀"'.encode(), "😀 ñ 😀"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
        (b"null", None),
    ],
)
def test_what_is_taken(raw, value):
    assert parse_json(raw) == value


def test_only_the_place_of_an_error_is_told_never_the_text():
    assert refusal(b'{"to":\n "canary@example.org" canary}').detail == "not JSON: error at line 2, column 23"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab\\é\u2028"), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_as_it_was(value, ascii_only, indent):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


nearly_json = st.lists(
    st.sampled_from(
        ["{", "}", "[", "]", ",", ":", '"', '"a"', "\\", "\\ud800", "\\u0000", "1", "-", "1e999", "NaN", "true", " "]
    ),
    max_size=30,
).map(lambda parts: "".join(parts).encode())


@given(st.binary() | nearly_json)
def test_bytes_are_json_or_refused_and_nothing_else_happens(raw):
    try:
        parsed = parse_json(raw)
    except InvalidRequestError as caught:
        refused_as = caught.code
    else:
        refused_as = "invalid_json"
        assert parsed == json.loads(raw)
        json.dumps(parsed, allow_nan=False, ensure_ascii=False).encode()
    assert refused_as == "invalid_json"


@given(st.binary() | nearly_json | nearly_json.map(lambda raw: b"[" + raw + b"]"))
def test_items_are_told_apart_or_not_and_nothing_else_happens(raw):
    items = parse_items(raw)
    try:
        parsed = parse_json(raw)
    except InvalidRequestError:
        return
    # What is taken as a whole has no flaw in any item.
    assert items == (parsed if isinstance(parsed, list) and parsed else None)


DEPTH = 60_000
NESTED_TOO_DEEPLY = [
    b"[" * DEPTH + b"]" * DEPTH,
    b'{"]}": "\\"]}\\\\", "a": [' * DEPTH + b'"[{\\"", 1' + b"]}" * DEPTH,
]

FLAWED = [
    b'{"a": 1, "a": 2}',
    b"NaN",
    b"[Infinity]",
    b"1e999",
    b"123456789012345678901234567890",
    b'"\\ud800"',
    b'{"x": ["\\udc00, ] }"]}',
]


@given(
    st.lists(json_values | st.sampled_from([*FLAWED, *NESTED_TOO_DEEPLY]), min_size=1, max_size=8),
    st.sampled_from(["", " ", "\n\t\r "]),
)
def test_a_flaw_stays_with_its_item(items, blank):
    written = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    raw = b"[" + b",".join(blank.encode() + each + blank.encode() for each in written) + b"]"
    read = parse_items(raw)
    assert read is not None
    assert len(read) == len(items)
    for given_item, found in zip(items, read, strict=True):
        if isinstance(given_item, bytes):
            assert isinstance(found, InvalidRequestError)
        else:
            assert found == given_item


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[", b"]", b"[]", b"[1,]", b"[,1]", b"[1 2]", b"[1],[2]", b"[[1]", b'["]', b"[1]x", b"\xff[1]"]
)
def test_without_an_array_there_are_no_items(raw):
    assert parse_items(raw) is None


class NothingNested(json.JSONDecoder):
    """A parser for which every object and every array is nested too deeply."""

    def raw_decode(self, s, idx=0):
        if s[idx] in "[{":
            raise RecursionError
        return super().raw_decode(s, idx)


texts_with_marks = st.text('[]{}",:\\ é\n\0', max_size=12)
nested_values = st.recursive(
    st.none() | st.integers(0, 9) | texts_with_marks,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts_with_marks, inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(nested_values, min_size=1, max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_what_is_told_apart_without_the_parser_is_what_the_parser_tells_apart(items, ascii_only, indent):
    raw = json.dumps(items, ensure_ascii=ascii_only, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_LENIENT", NothingNested())
        assert parse_items(raw) == parse_json(raw) == items


@given(st.binary() | nearly_json | nearly_json.map(lambda raw: b"[" + raw + b"]"))
def test_without_the_parser_nothing_is_told_apart_that_the_parser_would_take_otherwise(raw):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_LENIENT", NothingNested())
        items = parse_items(raw)
    try:
        parsed = parse_json(raw)
    except InvalidRequestError:
        return
    assert items == (parsed if isinstance(parsed, list) and parsed else None)


@pytest.mark.parametrize(
    "flaw",
    [
        b"[" * DEPTH,
        b"[" * DEPTH + b"]" * (DEPTH - 1),
        b"[" * DEPTH + b"]" * (DEPTH - 1) + b"}",
        b"[" * DEPTH + b'"' + b"]" * DEPTH,
        b"[" * DEPTH + b'"' + b'\\"' * DEPTH + b"]" * DEPTH,
        b"[" * DEPTH + b'"]' * DEPTH + b"\\",
    ],
    ids=lambda raw: repr(raw[-9:]),
)
def test_what_is_nested_too_deeply_and_never_closed_leaves_no_items(flaw):
    assert parse_items(b"[1, " + flaw + b"]") is None
    assert parse_items(b"[1, " + flaw + b", 2]") is None


def test_of_too_many_items_no_more_is_read_than_says_so():
    raw = b"[NaN" + b",1" * 100_000 + b", not json]"
    read = parse_items(raw)
    assert read is not None
    assert len(read) == REQUESTS_PER_RECORD_MAX + 1
