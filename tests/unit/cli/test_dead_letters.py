"""Dead letters: which are meant, which can be put back, and what is shown of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from infra.cli.__main__ import run_relevo
from infra.cli.dead_letters import (
    Action,
    Handled,
    Letter,
    Wanted,
    _letter,
    can_be_put_back,
    read_place,
    without_value,
)
from infra.cli.output import Exit
from infra.cli.reading import Read
from schemas.dead_letters import Origin, dead_letter_headers
from schemas.topics import DEAD_LETTERS, REQUESTED

AT = datetime(2026, 11, 24, 13, tzinfo=UTC)
SECRET = b'{"to": "ana@example.org"}'


def letter(reason="invalid_json", topic=REQUESTED.name, offset=912, at=AT, handled=None) -> Letter:
    headers = dead_letter_headers(Origin(topic, 3, offset, 5), [("x", None), ("y", b"1")], reason, "not JSON")
    record = Read(DEAD_LETTERS.name, 0, 7, int(at.timestamp() * 1000), b"k", SECRET, tuple(headers))
    mark = {} if handled is None else {(0, 7, at): handled}
    return _letter(record, mark)


HANDLED = Handled(Action.DISCARDED, "ana", "test data", AT)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Wanted(), True),
        (Wanted(places=frozenset({(0, 7)})), True),
        (Wanted(places=frozenset({(0, 8)})), False),
        (Wanted(reason="invalid_json"), True),
        (Wanted(reason="empty"), False),
        (Wanted(since=AT), True),
        (Wanted(since=AT + timedelta(seconds=1)), False),
        (Wanted(until=AT), False),
        (Wanted(until=AT + timedelta(seconds=1)), True),
        (Wanted(original_partition=3, original_offset=912), True),
        (Wanted(original_partition=2), False),
        (Wanted(original_offset=911), False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_every_filter_counts(wanted, matches):
    assert wanted.matches(letter()) is matches
    assert not wanted.matches(letter(handled=HANDLED))
    assert replace(wanted, handled=True).matches(letter(handled=HANDLED)) is matches


def test_a_mark_of_a_topic_that_was_made_anew_is_another_ones():
    marked = _letter(letter().record, {(0, 7, AT - timedelta(days=1)): HANDLED})
    assert marked.handled is None


def test_what_is_shown_holds_no_value_and_no_key():
    shown = without_value(letter(handled=HANDLED)).as_json()
    assert shown == {
        "partition": 0,
        "offset": 7,
        "at": "2026-11-24T13:00:00.000Z",
        "reason": "invalid_json",
        "message": "not JSON",
        "attempts": 1,
        "bytes": len(SECRET),
        "original": {"topic": REQUESTED.name, "partition": 3, "offset": 912},
        "handled": {"action": "discarded", "by": "ana", "reason": "test data", "at": "2026-11-24T13:00:00.000Z"},
    }


def test_only_what_says_where_it_was_can_be_put_back():
    assert can_be_put_back(letter())
    assert not can_be_put_back(letter(topic="somebody.elses"))
    record = replace(letter().record, headers=(("x", b"1"),))
    stranger = _letter(record, {})
    assert stranger.origin is None
    assert not can_be_put_back(stranger)
    assert stranger.as_json()["original"] is None


@pytest.mark.parametrize("text", ["p0@912", "0@912"])
def test_coordinates_are_read_as_they_are_shown(text):
    assert read_place(text) == (0, 912)


@pytest.mark.parametrize("text", ["", "912", "p0", "p0@", "p-1@3", "p0@9x", "p0@" + "9" * 19])
def test_anything_else_is_no_coordinates(text):
    with pytest.raises(ValueError, match="p0@912"):
        read_place(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay"],
        ["replay", "--all", "--of", "invalid_json"],
        ["replay", "p0"],
        ["replay", "--from", "yesterday"],
        ["discard", "--all"],
        ["discard", "--all", "--reason", " "],
        ["show"],
    ],
    ids=" ".join,
)
def test_what_is_not_clear_is_a_usage_error_before_any_server_is_asked(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("RELEVO_HOME", str(tmp_path))
    assert run_relevo(["dlq", *arguments]) == Exit.USAGE
