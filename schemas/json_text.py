"""
JSON in, strictly: what every door refuses before it looks at a single field.

The standard library's parser judges, because it alone lets us see a name that stands twice. It takes NaN, lone
surrogates, very long numbers and deep nesting, so those are refused here. Ordinary texts never come to it: a faster
parser reads them, and what it took is counted, to see that no name stood twice.
"""

import json
import re
from collections.abc import Iterable
from math import isinf
from typing import Any, Never

import orjson

from schemas.errors import FieldError, InvalidRequestError
from schemas.limits import REQUESTS_PER_RECORD_MAX


def _refuse(code: str, detail: str) -> Never:
    raise InvalidRequestError("invalid_json", [FieldError("", code, detail)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse("duplicate_name", "a name stands twice in one object; keep one of them")
    return found


def _constant(_name: str) -> Never:
    _refuse("invalid_number", "NaN and Infinity are not JSON; use a finite number or null")


def _integer(digits: str) -> int:
    # More than 64 bits fit no database and no other language's integer; Python would also refuse to parse
    # more than 4,300 digits with a ValueError of its own.
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**63:
        _refuse("invalid_number", "an integer does not fit into 64 bits; send it as a string")
    return value


def _fraction(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        _refuse("invalid_number", "a number is too large; send it as a string")
    return value


# Of the ordinary texts: how deep they nest, how large their integers are; fractions are judged by the strict parser.
_ORDINARY_DEPTH = 4
_PLAIN_INTEGER = 2**53
_NOT_ORDINARY = -(2**40)  # below what any number of strings can make up for

_BLANKS = " \t\n\r"
_BLANK_RUN = re.compile(f"[{_BLANKS}]*")
_LENIENT = json.JSONDecoder(parse_int=len)
# A string with all that is in it, or a bracket. Possessive: nothing is looked at twice, however long the text.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_CLOSING = {"[": "]", "{": "}"}
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_fraction
)


def parse_json(raw: bytes) -> Any:
    """
    Parse one JSON text, strictly (RFC 8259, and RFC 7493 section 2: unique names, no lone surrogates).

    Args:
        raw: UTF-8, without a byte order mark. The caller has bounded its length.
    Raises:
        InvalidRequestError: code "invalid_json", one error with pointer "" and one of the codes syntax,
            encoding, duplicate_name, invalid_number, too_deep.
    """
    ordinary = _read_ordinary(raw)
    return _read_strictly(raw) if ordinary is None else ordinary


def _read_ordinary(raw: bytes) -> Any:
    """
    Return what *raw* says if that is an object or array of the ordinary kind; None: somebody else must judge.

    A test compares this with the strict parser on generated texts: what it takes, it takes alike.
    """
    try:
        parsed = orjson.loads(raw)
        # What is the same when it is written again has no name twice, no number that somebody else would read
        # otherwise, and no half of a character: all that relevo wrote itself, and most of what browsers send.
        if orjson.dumps(parsed, option=orjson.OPT_STRICT_INTEGER) == raw:
            return parsed
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    strings = _count_strings(parsed, _ORDINARY_DEPTH)
    if strings < 0:
        return None
    quotes = raw.count(b'"')
    if b"\\" in raw:
        # Of a run of backslashes each pair stands for itself; the odd one before a quote takes that into the string.
        quotes -= raw.replace(b"\\\\", b"").count(b'\\"')
    # A name that stood twice was dropped with its two quotes: then more of them were written than were kept.
    return parsed if quotes == 2 * strings else None


def _count_strings(parsed: object, depth_max: int) -> int:
    """Return how many strings *parsed* holds, names too; below 0: it is too deep, or has a number to be judged."""
    values: Iterable[Any]
    if type(parsed) is dict:
        count, values = len(parsed), parsed.values()
    elif type(parsed) is list:
        count, values = 0, parsed
    else:
        return _NOT_ORDINARY
    if not depth_max:
        return _NOT_ORDINARY
    for value in values:
        kind = type(value)
        if kind is str:
            count += 1
        elif kind is dict or kind is list:
            count += _count_strings(value, depth_max - 1)
        elif not (value is None or kind is bool or (kind is int and -_PLAIN_INTEGER < value < _PLAIN_INTEGER)):
            return _NOT_ORDINARY
    return count


def _read_strictly(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        _refuse("encoding", "the text is not UTF-8")
    try:
        parsed = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        # Only the place is told: the message of the parser is ours to give, the input is not.
        _refuse("syntax", f"not JSON: error at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _refuse("too_deep", "objects and arrays are nested too deeply")
    # An escape such as \ud800 without its partner parses, but no database, mail or log can encode it.
    if "\\u" in text:
        _refuse_surrogates(parsed)
    return parsed


def _after_blanks(text: str, place: int) -> int:
    found = _BLANK_RUN.match(text, place)
    assert found is not None, "the pattern also matches nothing"
    return found.end()


def parse_items(raw: bytes) -> list[Any] | None:
    """
    Parse the items of a JSON array one by one, so that a flaw inside one of them stays with it.

    For texts that `parse_json` refused. Twice the work, in proportion to the text: only what is flawed pays for it.
    Ends behind the first item that is one too many for a record; nobody looks at the rest.
    Returns:
        For each item what it says, or the InvalidRequestError that it is. None: there is no telling the items
        apart, because the text is no JSON array.
    """
    items: list[Any] = []
    try:
        text = raw.decode("utf-8").strip(_BLANKS)
        if not (text.startswith("[") and text.endswith("]")):
            return None
        place = 1
        while True:
            start = _after_blanks(text, place)
            place = _end_of_item(text, start)
            try:
                items.append(parse_json(text[start:place].encode()))
            except InvalidRequestError as invalid:
                items.append(invalid)
            place = _after_blanks(text, place)
            if place == len(text) - 1 or len(items) > REQUESTS_PER_RECORD_MAX:
                return items
            if text[place] != ",":
                return None
            place += 1
    except (ValueError, IndexError):
        return None


def _end_of_item(text: str, start: int) -> int:
    try:
        # The lenient parser finds the end of the item, ours judges what lies between.
        return _LENIENT.raw_decode(text, start)[1]
    except RecursionError:
        return _end_of_nested(text, start)


def _end_of_nested(text: str, start: int) -> int:
    """
    Return where the object or array that begins at *start* ends, however deeply it is nested: one pass, no recursion.

    Raises:
        ValueError: its strings and brackets do not close. More is not judged here.
    """
    awaited: list[str] = []
    for found in _STRING_OR_BRACKET.finditer(text, start):
        mark = text[found.start()]
        if mark in _CLOSING:
            awaited.append(_CLOSING[mark])
        elif mark != '"':
            if mark != awaited.pop():
                break
            if not awaited:
                return found.end()
    raise ValueError("strings and brackets do not close")


def _refuse_surrogates(parsed: object) -> None:
    # A stack of our own: what the parser could nest, recursion here might not.
    waiting = [parsed]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                _refuse("lone_surrogate", "a \\u escape names half of a character; send the whole pair")
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
