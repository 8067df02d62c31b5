"""Messages become bytes and come back; what cannot come back is told item by item."""

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import results
from schemas.dead_letters import (
    DEAD_LETTER_MESSAGE_BYTES_MAX,
    Origin,
    dead_letter_headers,
    put_back_headers,
    read_origin,
)
from schemas.errors import FieldError
from schemas.limits import REQUESTS_PER_RECORD_MAX
from schemas.messages import Reason, Source
from schemas.records import (
    Rejection,
    decode_deduplicated,
    decode_requested,
    decode_source,
    encode_deduplicated,
    encode_request,
    encode_requested,
    encode_result,
    encode_result_record,
    encode_source,
    header,
    timestamp,
)
from schemas.states import TERMINAL, State
from tests.builders import make_notification

ID = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e")
OTHER_ID = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5f")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
REQUEST = {"id": str(ID), "to": "receiver@example.org", "subject": "Alerta", "body": "Se ha detectado."}

texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
notifications = st.builds(
    make_notification,
    id=st.uuids(),
    traceparent=st.none() | st.sampled_from([TRACE, OTHER_TRACE]),
    subject=texts,
    body=texts.map(lambda text: text + "\r\n\t"),
    html=st.none() | texts,
    reply_to=st.sampled_from([None, "a@b.org", "ñ@b.org"]),
    metadata=st.none()
    | st.dictionaries(
        texts,
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
        max_size=4,
    ),
)


@given(st.lists(notifications, min_size=1, max_size=5))
def test_what_is_written_is_read_back(written):
    # A lone request's context travels in the header, in an array each item carries its own.
    beside = written[0].traceparent if len(written) == 1 else None
    assert decode_requested(encode_requested(written), beside) == list(enumerate(written))


@given(notifications)
def test_a_forwarded_request_is_read_back(notification):
    source = Source("http", 5, 2**40, 499)
    headers = [encode_source(source)]
    if notification.traceparent is not None:
        headers.append(("traceparent", notification.traceparent.encode()))
    read, place = decode_deduplicated(orjson.dumps(encode_request(notification)), headers)
    assert (read, place) == (notification, source)


def test_a_request_is_written_without_what_it_does_not_have():
    assert encode_request(make_notification(id=ID)) == REQUEST
    full = {"html": "<p>", "reply_to": "a@b.org", "metadata": {}}
    assert encode_request(make_notification(id=ID, **full)) == REQUEST | full


def test_a_record_carries_at_most_500():
    full = [make_notification() for _ in range(REQUESTS_PER_RECORD_MAX)]
    assert len(decode_requested(encode_requested(full), None)) == 500
    with pytest.raises(AssertionError):
        encode_requested([*full, make_notification()])
    value = orjson.dumps([encode_request(each) for each in [*full, make_notification()]])
    (refused,) = decode_requested(value, None)
    assert (refused.index, refused.id, refused.errors[0].code) == (0, None, "too_many")


def test_an_item_has_its_own_context_or_that_of_the_record():
    items = [REQUEST, REQUEST | {"traceparent": OTHER_TRACE}, REQUEST | {"traceparent": 5}]
    read = decode_requested(json.dumps(items).encode(), TRACE)
    assert [notification.traceparent for _, notification in read] == [TRACE, OTHER_TRACE, TRACE]


@pytest.mark.parametrize(
    "context", ["", "\0", "x" * 10_000, "canary@example.org", TRACE + "\n", TRACE + "-\0", TRACE.upper(), f"00-{TRACE}"]
)
def test_a_context_that_is_none_goes_nowhere(context):
    # It would be stored with the notification, and Postgres refuses a NUL each time anew.
    for read in (
        decode_requested(json.dumps(REQUEST).encode(), context),
        decode_requested(json.dumps([REQUEST | {"traceparent": context}]).encode(), TRACE),
    ):
        assert read[0][1].traceparent is None
    headers = [encode_source(Source("kafka", 0, 0, 0)), ("traceparent", context.encode())]
    assert decode_deduplicated(json.dumps(REQUEST).encode(), headers)[0].traceparent is None


def test_unknown_fields_are_ignored():
    more = {"schema": "notifications.requested/1.7", "priority": [{"deep": {}}], "": None, "send_at": "soon"}
    ((index, notification),) = decode_requested(json.dumps(REQUEST | more).encode(), None)
    assert (index, notification) == (0, make_notification(id=ID))


@pytest.mark.parametrize(
    "version", ["notifications.requested/1", "notifications.requested/1.0", "notifications.requested/1.99"]
)
def test_a_minor_version_of_ours_is_read(version):
    assert decode_requested(json.dumps(REQUEST | {"schema": version}).encode(), None)[0][0] == 0


@pytest.mark.parametrize(
    "version",
    [
        "notifications.requested/2",
        "notifications.requested/11",
        "notifications.requested/0.1",
        "notifications.results/1",
        "/1",
        "1",
        "",
        1,
        None,
        {},
    ],
)
def test_another_major_version_is_rejected(version):
    (refused,) = decode_requested(json.dumps(REQUEST | {"schema": version}).encode(), None)
    assert refused.id == ID
    assert refused.code == "invalid_request"
    assert [(error.pointer, error.code) for error in refused.errors] == [("/schema", "unknown_version")]


@pytest.mark.parametrize(
    ("value", "code", "error"),
    [
        (None, "invalid_request", "empty"),
        (b"", "invalid_request", "empty"),
        (b"[]", "invalid_request", "empty"),
        (b"nonsense", "invalid_json", "syntax"),
        (b"\xff\xfe", "invalid_json", "encoding"),
        (b'"text"', "invalid_request", "required"),
        (b"[" * 100_000, "invalid_json", "too_deep"),
    ],
)
def test_a_record_that_is_no_request_at_all_is_one_rejection(value, code, error):
    (refused,) = decode_requested(value, None)
    assert (refused.index, refused.id, refused.code) == (0, None, code)
    if error != "required":
        assert [each.code for each in refused.errors] == [error]


def test_a_bad_item_leaves_its_neighbours_alone():
    good = json.dumps(REQUEST)
    items = [
        good,
        "5",
        json.dumps(REQUEST | {"to": "nobody"}),
        json.dumps(REQUEST | {"id": "x", "to": "nobody"}),
        good.replace('"to"', '"id"'),
        "NaN",
        "[" * 60_000 + "]" * 60_000,
        good.replace("{", '{"more": ' + '{"a": [' * 60_000 + '"]}"' + "]}" * 60_000 + ",", 1),
        json.dumps({name: value for name, value in REQUEST.items() if name != "id"}),
        good,
    ]
    read = decode_requested(f"[{','.join(items)}]".encode(), None)
    assert [found[0] for found in read if isinstance(found, tuple)] == [0, 9]
    assert [
        (found.index, found.id, found.code, [(error.pointer, error.code) for error in found.errors])
        for found in read
        if isinstance(found, Rejection)
    ] == [
        (1, None, "invalid_request", [("", "type")]),
        (2, ID, "invalid_request", [("/to", "invalid_address")]),
        (3, None, "invalid_request", [("/id", "invalid_uuid"), ("/to", "invalid_address")]),
        (4, None, "invalid_json", [("", "duplicate_name")]),
        (5, None, "invalid_json", [("", "invalid_number")]),
        (6, None, "invalid_json", [("", "too_deep")]),
        (7, None, "invalid_json", [("", "too_deep")]),
        (8, None, "invalid_request", [("/id", "required")]),
    ]


@given(
    st.none()
    | st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_items_or_rejections(value):
    read = decode_requested(value, None)
    assert read
    assert all(isinstance(found, Rejection) and found.errors for found in read)
    for found in read:
        results.rejection(
            found, Source("kafka", 0, 0, found.index), came_at=results.now(), occurred_at=results.now(), trace_id=None
        )


# -- golden records: what earlier versions wrote is still understood -----------------------------------------------

GOLDEN_REQUESTED = (
    b'[{"id":"0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e","to":"receiver@example.org","subject":"Alerta","body":"x\\r\\ny",'
    b'"html":"<p>x</p>","reply_to":"a@b.org","metadata":{"order":17,"vip":true},"channel":"email",'
    b'"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}]'
)


def test_the_first_requested_record_still_decodes():
    content = {"body": "x\r\ny", "html": "<p>x</p>", "reply_to": "a@b.org", "metadata": {"order": 17, "vip": True}}
    assert decode_requested(GOLDEN_REQUESTED, None) == [(0, make_notification(id=ID, traceparent=TRACE, **content))]


def test_the_first_deduplicated_record_still_decodes():
    value = (
        b'{"id":"0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e","to":"receiver@example.org","subject":"Alerta",'
        b'"body":"Se ha detectado."}'
    )
    headers = [("relevo-source", b"kafka 3 912 7"), ("traceparent", TRACE.encode()), ("newer", b"?")]
    assert decode_deduplicated(value, headers) == (
        make_notification(id=ID, traceparent=TRACE),
        Source("kafka", 3, 912, 7),
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"x",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'{"id": 5}',
        json.dumps(REQUEST | {"id": "x"}).encode(),
        json.dumps(REQUEST | {"to": 5}).encode(),
        json.dumps(REQUEST | {"subject": None}).encode(),
        json.dumps({"id": str(ID)}).encode(),
    ],
)
def test_a_stranger_on_the_deduplicated_topic_is_a_value_error(value):
    with pytest.raises(ValueError):
        decode_deduplicated(value, [("relevo-source", b"kafka 3 912 7")])


@pytest.mark.parametrize(
    "text", [None, b"", b"kafka", b"kafka 1 2", b"kafka 1 2 3 4", b"kafka x 2 3", b"\xff 1 2 3", b"kafka  1 2"]
)
def test_a_source_that_relevo_did_not_write_is_a_value_error(text):
    with pytest.raises(ValueError):
        decode_source([] if text is None else [("relevo-source", text)])


# -- headers --------------------------------------------------------------------------------------------------------


def test_the_last_header_of_a_name_counts():
    headers = [("a", b"1"), ("A", b"2"), ("a", b"3"), ("b", b"\xff"), ("c", None)]
    assert [header(headers, name) for name in "aAbcd"] == ["3", "2", None, None, None]


def test_a_dead_letter_keeps_its_headers_and_says_where_it_was_and_why():
    came = [
        ("traceparent", TRACE.encode()),
        ("x", b"\xff\x00"),
        ("x", b"2"),
        ("null", None),
        ("dlq-reason", b"earlier"),
    ]
    made = dead_letter_headers(Origin("notifications.requested", 3, 912, 1700000000000), came, "invalid_json", "broken")
    assert made[:5] == came
    assert made[5:] == [
        ("dlq-original-topic", b"notifications.requested"),
        ("dlq-original-partition", b"3"),
        ("dlq-original-offset", b"912"),
        ("dlq-original-timestamp", b"1700000000000"),
        ("dlq-reason", b"invalid_json"),
        ("dlq-message", b"broken"),
        ("dlq-attempts", b"1"),
    ]


_HEADERS = st.lists(
    st.tuples(st.sampled_from(["x", "traceparent", "dlq-reason", "dlq-attempts"]), st.none() | st.binary(max_size=8))
)


@given(_HEADERS.filter(lambda headers: not headers or headers[-1][0] != "dlq-attempts"), st.integers(1, 5))
def test_a_dead_letter_goes_back_as_it_came_and_its_attempts_are_counted(came, times):
    origin, headers = Origin("notifications.requested", 3, 912, -1), came
    for attempt in range(1, times + 1):
        dead = dead_letter_headers(origin, headers, "invalid_json", "broken")
        assert dead[:-7] == came
        assert (dead[-1], read_origin(dead)) == (("dlq-attempts", str(attempt).encode()), origin)
        headers = put_back_headers(dead)
        assert headers == [*came, ("dlq-attempts", str(attempt).encode())]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("dlq-attempts", b"1")],
        [(name, b"x") for name in ("dlq-original-topic", "dlq-reason", "dlq-message", "dlq-attempts")],
    ],
    ids=["none", "one", "others"],
)
def test_what_is_no_dead_letter_of_ours_cannot_be_put_back(headers):
    with pytest.raises(ValueError, match="dead letter"):
        put_back_headers(headers)
    with pytest.raises(ValueError, match="dead letter"):
        read_origin(headers)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=500, max_size=3000))
def test_the_message_of_a_dead_letter_is_cut_between_characters(message):
    kept = dict(dead_letter_headers(Origin("t", 0, 0, 0), [], "r", message))["dlq-message"]
    assert len(kept) <= DEAD_LETTER_MESSAGE_BYTES_MAX
    assert message.startswith(kept.decode())
    assert len(kept) > DEAD_LETTER_MESSAGE_BYTES_MAX - 4 or kept.decode() == message


# -- results --------------------------------------------------------------------------------------------------------

ACCEPTED_AT = datetime(2026, 11, 24, 13, 0, 0, 1999, tzinfo=timezone(timedelta(hours=1)))


def a_change(**changes):
    given_fields = {
        "id": ID,
        "seq": 3,
        "status": State.SENT,
        "reason": Reason("accepted", "smtp_250", "250 2.0.0 Ok: queued"),
        "attempt": 2,
        "channel": "email",
        "source": Source("kafka", 3, 912, 7),
        "recipient_hash": "ab" * 16,
        "accepted_at": ACCEPTED_AT,
        "occurred_at": ACCEPTED_AT + timedelta(seconds=1.5),
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "metadata": {"order": 17},
        "producer": "billing",
        "replay_of": OTHER_ID,
        "test": False,
    }
    return results.change(**(given_fields | changes))


def test_a_result_has_exactly_the_fields_of_the_contract():
    assert json.loads(encode_result(a_change())) == {
        "schema": "notifications.results/1",
        "event_id": str(a_change().event_id),
        "id": str(ID),
        "seq": 3,
        "status": "sent",
        "terminal": True,
        "reason": {"class": "accepted", "code": "smtp_250", "smtp": "250 2.0.0 Ok: queued"},
        "attempt": 2,
        "channel": "email",
        "source": {"door": "kafka", "topic": "notifications.requested", "partition": 3, "offset": 912, "index": 7},
        "recipient_hash": "ab" * 16,
        "accepted_at": "2026-11-24T12:00:00.001Z",
        "occurred_at": "2026-11-24T12:00:01.501Z",
        "duration_ms": 1500,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "metadata": {"order": 17},
        "producer": "billing",
        "replay_of": str(OTHER_ID),
        "test": False,
    }
    assert encode_result_record(a_change())[0] == str(ID).encode()


def test_a_schedule_a_producer_and_a_replay_come_through_both_topics():
    at = datetime(2026, 12, 24, 9, 0, 0, 123456, tzinfo=UTC)
    given = make_notification(
        id=ID, scheduled_for=at, expires_at=at + timedelta(days=1), producer="billing", replay_of=OTHER_ID
    )
    assert decode_requested(encode_requested([given]), None) == [(0, given)]
    _, value, headers = encode_deduplicated(given, Source("kafka", 3, 912, 7))
    assert decode_deduplicated(value, headers)[0] == given


@pytest.mark.parametrize("producer", ["", "x" * 129, "a\nb", "ñ", 7])
def test_a_producer_must_be_a_name(producer):
    (rejected,) = decode_requested(json.dumps(REQUEST | {"producer": producer}).encode(), None)
    assert [(error.pointer, error.code) for error in rejected.errors] == [("/producer", "invalid_producer")]


def test_what_a_result_does_not_have_is_null():
    missing = ("reason", "source", "recipient_hash", "trace_id", "metadata", "producer", "replay_of")
    empty = a_change(status=State.QUEUED, **dict.fromkeys(missing))
    found = json.loads(encode_result(empty))
    assert [name for name, value in found.items() if value is None] == list(missing)
    assert found.keys() == json.loads(encode_result(a_change())).keys()


@pytest.mark.parametrize("status", list(State))
def test_a_result_says_whether_anything_will_follow(status):
    assert json.loads(encode_result(a_change(status=status)))["terminal"] is (status in TERMINAL)


def test_a_repeated_change_folds_away_and_another_does_not():
    assert a_change().event_id == a_change(occurred_at=ACCEPTED_AT + timedelta(hours=1)).event_id
    assert len({a_change().event_id, a_change(seq=4).event_id, a_change(id=uuid4()).event_id}) == 3


def a_rejection(identity=None, code="invalid_request"):
    refused = Rejection(7, identity, code, (FieldError("/to", "required", "is required"),))
    return results.rejection(
        refused,
        Source("kafka", 3, 912, 7),
        came_at=ACCEPTED_AT,
        occurred_at=ACCEPTED_AT - timedelta(days=1),
        trace_id=None,
    )


def test_a_rejection_names_the_place_and_every_error():
    found = json.loads(encode_result(a_rejection()))
    assert found["source"] == {
        "door": "kafka",
        "topic": "notifications.requested",
        "partition": 3,
        "offset": 912,
        "index": 7,
    }
    assert found["errors"] == [{"pointer": "/to", "code": "required", "detail": "is required"}]
    assert (found["status"], found["terminal"], found["seq"], found["id"]) == ("rejected", True, 0, None)
    assert found["reason"] == {"class": "invalid", "code": "invalid_request", "smtp": None}
    assert found["duration_ms"] == 0, "a producer's clock may be ahead of ours"


def test_a_rejection_without_an_id_has_a_key_all_the_same():
    assert encode_result_record(a_rejection())[0] == str(a_rejection().event_id).encode()
    assert encode_result_record(a_rejection(ID))[0] == str(ID).encode()


def test_a_conflict_ends_nothing_because_the_id_is_somebody_elses():
    found = a_rejection(ID, "idempotency_conflict")
    assert (found.terminal, found.reason) == (False, Reason("conflict", "idempotency_conflict"))


@pytest.mark.parametrize(
    ("timestamp_ms", "moment"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1700000000123, "2023-11-14T22:13:20.123Z"),
        (-1, "1970-01-01T00:00:00.000Z"),
        (-(2**63), "1970-01-01T00:00:00.000Z"),
        (10**17, "9999-12-31T23:59:59.000Z"),
        (2**63 - 1, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_whatever_time_a_producer_claims_there_is_a_moment_for_it(timestamp_ms, moment):
    found = results.moment(timestamp_ms)
    assert found.tzinfo is UTC
    assert timestamp(found) == moment
