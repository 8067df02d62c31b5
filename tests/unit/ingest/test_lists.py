"""What may be asked of lists: every mistake is named, none is repeated, and a cursor holds what it was made from."""

import base64
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from multidict import MultiDict

from ingest import lists
from ingest.lists import (
    LIMIT_DEFAULT,
    Filters,
    Position,
    Query,
    cursor_of,
    page_path,
    place_between,
    read_cursor,
    read_query,
)
from schemas.errors import InvalidRequestError
from schemas.states import IN_LEDGER, State

AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
QUERY = Query(Filters(states=(State.FAILED,), producer="billing"), 10, Position(AT, UUID(int=7)))

moments = st.datetimes(timezones=st.just(UTC))
queries = st.builds(
    Query,
    st.builds(
        Filters,
        states=st.lists(st.sampled_from(IN_LEDGER), unique=True).map(tuple),
        door=st.sampled_from([None, "http", "kafka"]),
        producer=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128),
        accepted_from=st.none() | moments,
        accepted_to=st.none() | moments,
        recipient_key=st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    st.integers(1, 200),
    st.builds(Position, moments, st.uuids()),
)


def asked(**given):
    pairs = [
        (name.rstrip("_"), value)
        for name, values in given.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    return read_query(MultiDict(pairs))


def errors_of(**given):
    with pytest.raises(InvalidRequestError) as refused:
        asked(**given)
    told = " ".join(error.detail for error in refused.value.errors)
    assert not any(
        value in told for value in given.values() if len(value) > 5
    )  # shorter ones may stand there by chance
    return {(error.pointer, error.code) for error in refused.value.errors}


def test_without_parameters_it_is_the_first_page_of_all():
    assert asked() == Query(Filters(), LIMIT_DEFAULT)


def test_states_may_be_repeated_or_separated_by_commas():
    wanted = (State.FAILED, State.BOUNCED, State.SENT)
    assert asked(status=["failed,bounced", "sent", "failed"]).filters.states == wanted


def test_every_filter_is_understood():
    query = asked(
        door="kafka", producer="billing", from_="2026-11-24T06:00:00.123456-06:00", to="2026-11-25T00:00:00Z",
        recipient="Ana@EXAMPLE.org", limit="200",
    )  # fmt: skip
    assert query == Query(
        Filters(
            door="kafka", producer="billing", accepted_from=AT, accepted_to=datetime(2026, 11, 25, tzinfo=UTC),
            recipient="Ana@example.org",
        ),
        200,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("status", "delivered", "unknown_value"),
        ("status", "", "unknown_value"),
        ("status", "rejected", "unknown_value"),
        ("status", "sent,", "unknown_value"),
        ("door", "HTTP", "unknown_value"),
        ("producer", "", "invalid_producer"),
        ("producer", "x\x00", "invalid_producer"),
        ("producer", "x" * 129, "invalid_producer"),
        ("from", "yesterday", "invalid_time"),
        ("from", "2026-11-24T00:00:00", "invalid_time"),
        ("to", "2026-11-24T00:00:00 02:00", "invalid_time"),
        ("recipient", "nobody", "invalid_address"),
        ("recipient", "a@b.cc,d@e.ff", "invalid_address"),
        ("recipient", f"{'x' * 64}@{'y' * 60}.{'z' * 60}.{'z' * 60}.{'z' * 60}.org", "invalid_address"),
        ("limit", "0", "out_of_range"),
        ("limit", "201", "out_of_range"),
        ("limit", "1.0", "out_of_range"),
        ("limit", "+5", "out_of_range"),
        ("limit", "٣", "out_of_range"),
        ("limit", "", "out_of_range"),
        ("page", "2", "unknown_parameter"),
        ("cursor", "", "invalid_cursor"),
        ("cursor", "x", "invalid_cursor"),
        ("cursor", "ñ", "invalid_cursor"),
        ("cursor", "A" * 2000, "invalid_cursor"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_mistake_is_named_and_not_repeated(name, value, code):
    assert errors_of(**{name: value}) == {(f"/{name}", code)}


def test_all_mistakes_come_at_once():
    found = errors_of(limit="x", door="y", status="z", page="1", recipient=["a@b.cc", "d@e.ff"])
    assert found == {
        ("/limit", "out_of_range"), ("/door", "unknown_value"), ("/status", "unknown_value"),
        ("/page", "unknown_parameter"), ("/recipient", "repeated"),
    }  # fmt: skip


def test_a_window_that_holds_no_moment_is_refused():
    assert errors_of(from_="2026-11-24T00:00:00Z", to="2026-11-24T00:00:00Z") == {("/to", "empty_window")}


@given(queries)
def test_a_cursor_holds_what_it_was_made_from(query):
    assert read_cursor(cursor_of(query)) == query
    assert read_query(MultiDict(cursor=cursor_of(query))) == query


@given(queries, st.data())
def test_a_cursor_that_was_changed_anywhere_is_refused(query, data):
    cursor = cursor_of(query)
    place = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from("ABCabc012-_").filter(lambda letter: letter != cursor[place]))
    for changed in (cursor[:place] + other + cursor[place + 1 :], cursor[:place], cursor + other):
        with pytest.raises(ValueError):
            read_cursor(changed)


@given(st.binary(max_size=60), st.text(max_size=60))
def test_no_bytes_and_no_text_break_the_reading_of_cursors(raw, text):
    for given_text in (base64.urlsafe_b64encode(raw).decode().rstrip("="), text):
        with pytest.raises(ValueError):
            read_cursor(given_text)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": "x"}, {"r": 2**63}, {"r": True}, {"p": "\x00"}, {"p": 5}, {"d": "ftp"}, {"s": ["gone"]}, {"s": "sent"},
        {"n": 0}, {"n": 201}, {"n": "10"}, {"at": 1e300}, {"at": 2**80}, {"at": None}, {"id": "x"}, {"id": 5},
        {"f": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_cursor_that_somebody_made_up_reaches_no_database(changes):
    held = {"at": 5, "id": UUID(int=7).hex, "n": 10} | changes
    raw = json.dumps(held).encode()
    with pytest.raises(ValueError):
        read_cursor(base64.urlsafe_b64encode(lists._check(raw) + raw).decode().rstrip("="))


PLACES = st.builds(
    Position,
    st.integers(0, 2**52).map(lambda micros: AT + timedelta(microseconds=micros)) | st.just(AT),
    st.uuids(),
)


@given(PLACES, PLACES)
def test_a_place_between_two_is_above_the_one_and_not_above_the_other(one, other):
    assume(one != other)
    lower, upper = sorted((one, other))
    between = place_between(lower, upper)
    assert lower < between <= upper
    query = Query(after=between)
    assert read_cursor(cursor_of(query)) == query


def test_a_place_between_two_tells_little_of_them():
    moment, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 7, 123456, tzinfo=UTC)
    low, high = UUID("72000000-1111-4111-8111-111111111111"), UUID("73a9c3b7-2222-4222-8222-222222222222")
    between = place_between(Position(moment, low), Position(moment, high))
    assert between == Position(moment, UUID("73000000-0000-0000-0000-000000000000"))
    between = place_between(Position(moment, high), Position(later, high))
    assert between.id.int == 0
    assert moment < between.accepted_at < later


def test_beside_a_cursor_only_a_limit_may_be_given():
    cursor = cursor_of(QUERY)
    assert asked(cursor=cursor, limit="3").limit == 3
    assert errors_of(cursor=cursor, status="sent", recipient="a@b.cc") == {
        ("/status", "beside_cursor"), ("/recipient", "beside_cursor"),
    }  # fmt: skip


def test_the_address_of_a_page_holds_no_recipient():
    query = Query(Filters(recipient="ana@example.org", recipient_key=5), 10, Position(AT - timedelta(1), UUID(int=1)))
    path = page_path(query)
    held = base64.urlsafe_b64decode(path.partition("=")[2] + "===")
    assert b"ana" not in held
    assert "ana" not in path
