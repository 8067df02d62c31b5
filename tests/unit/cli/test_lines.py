"""What a record looks like on a line, and as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cli.lines import document, ids_of, line, result_line
from infra.cli.reading import Read
from infra.cli.tail import matcher
from schemas.states import State
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, REQUESTED, RESULTS

ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"
RESULT = {
    "id": ID,
    "seq": 2,
    "status": "sent",
    "attempt": 1,
    "reason": {"class": "accepted", "code": "smtp_250", "smtp": "250 OK"},
    "occurred_at": "2026-01-02T03:04:05.678Z",
    "duration_ms": 42,
}


def record(topic, value, *, key=None, headers=()):
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Read(topic.name, 3, 17, 1_767_323_045_678, key, raw, tuple(headers))


def test_a_result_tells_when_which_what_why_and_how_long():
    words = line(record(RESULTS, RESULT)).split()
    assert words == ["2026-01-02T03:04:05.678Z", ID, "sent", "attempt", "1", "smtp_250", "42", "ms"]


def test_a_rejection_tells_what_is_wrong():
    errors = [{"pointer": "/to", "code": "required", "detail": "is required"}]
    assert "(no id)" in result_line({**RESULT, "id": None, "status": "rejected", "errors": errors})
    assert result_line({**RESULT, "errors": errors}).endswith("/to is required")


def test_lines_show_no_address_no_subject_and_no_body():
    request = {"id": ID, "to": "ana@example.org", "subject": "Secret", "body": "Very secret"}
    for topic in (REQUESTED, DEDUPLICATED):
        shown = line(record(topic, [request, request, request, request]))
        assert "a***@example.org" in shown
        assert "and 1 more" in shown
        assert not {"ana@", "Secret", "secret"} & set(shown.replace(",", " ").split())


def test_a_dead_letter_tells_why_and_from_where():
    headers = [
        ("dlq-original-topic", REQUESTED.name.encode()),
        ("dlq-original-partition", b"4"),
        ("dlq-original-offset", b"9"),
        ("dlq-reason", b"invalid_json"),
        ("dlq-message", b"not JSON\x1b[31m"),
    ]
    shown = line(record(DEAD_LETTERS, b"\xff\xfe", headers=headers))
    assert f"invalid_json from {REQUESTED.name} p4@9: not JSON" in shown
    assert "2 bytes" in shown
    assert "\x1b" not in shown


def test_json_of_a_result_is_the_result_itself():
    assert document(record(RESULTS, RESULT)) == RESULT


def test_json_of_another_record_has_its_place_and_loses_no_byte():
    found = document(record(DEAD_LETTERS, b"\xff", key=b"k", headers=[("h", b"v"), ("n", None)]))
    assert found["value_base64"] == "/w=="
    assert (found["partition"], found["offset"], found["key"]) == (3, 17, "k")
    assert found["headers"] == {"h": "v", "n": ""}
    assert found["timestamp"] == "2026-01-02T03:04:05.678Z"
    assert document(record(REQUESTED, [{"id": ID}]))["value"] == [{"id": ID}]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RESULT, "errors"]), inner, max_size=6)
    ),
    max_leaves=8,
)


@given(json_values | st.binary(max_size=20), st.sampled_from([RESULTS, REQUESTED, DEDUPLICATED, DEAD_LETTERS]))
def test_whatever_somebody_wrote_to_a_topic_can_be_shown(value, topic):
    each = record(topic, value)
    assert line(each).isprintable()
    assert isinstance(document(each), dict)
    json.dumps(document(each))
    matcher(ID, State.SENT)(each)


def test_ids_come_from_values_and_keys():
    assert ids_of(record(REQUESTED, [{"id": ID.upper()}, {"id": 5}, 7], key=b"K")) == {ID, "5", "k"}


@pytest.mark.parametrize(
    ("notification_id", "status", "wanted"),
    [
        (None, None, True),
        (ID, None, True),
        (None, State.SENT, True),
        (ID, State.SENT, True),
        (ID, State.FAILED, False),
        ("0191e7a0-0000-7cc2-9e0a-3d6f1d2b4c5e", None, False),
    ],
)
def test_only_what_is_wanted_is_shown(notification_id, status, wanted):
    assert matcher(notification_id, status)(record(RESULTS, RESULT)) is wanted
