"""Every error at once, each where it is, and nothing of the input in any of them."""

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.addresses import SIMULATED
from schemas.errors import InvalidRequestError
from schemas.json_text import parse_json
from schemas.limits import BODY_CHARS_MAX, CONTACT_MESSAGE_CHARS_MAX, METADATA_ENTRIES_MAX, SUBJECT_CHARS_MAX
from schemas.records import decode_requested
from schemas.validation import pointer, read_contact, read_content, read_id

GOOD = {"to": "receiver@example.com", "subject": "Alerta de Sistema", "body": "Línea 1\r\n\tlínea 2"}
FORM = {"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un billón de notificaciones."}

CONTROLS = [*map(chr, range(0x20)), "\x7f", "\x80", "\x85", "\x9f", "\u2028", "\u2029"]


def errors_of(read, given_object, **options):
    with pytest.raises(InvalidRequestError) as caught:
        read(given_object, **options)
    assert caught.value.code == "invalid_request"
    return {(error.pointer, error.code) for error in caught.value.errors}


def content_errors(accepts=None, **changes):
    return errors_of(read_content, GOOD | changes, accepts=accepts)


def test_a_request_needs_only_three_fields():
    content = read_content(GOOD, accepts=frozenset())
    nothing = dict.fromkeys(("html", "reply_to", "metadata", "scheduled_for", "expires_at"))
    defaults = nothing | {"channel": "email", "on_doubt": "hold"}
    assert content.model_dump() == GOOD | defaults


def test_all_errors_come_at_once():
    bad = {
        "to": "nobody",
        "subject": 5,
        "html": " ",
        "reply_to": "a@b.org, c@d.org",
        "channel": "pigeon",
        "metadata": [],
    }
    assert errors_of(read_content, bad, accepts=None) == {
        ("/to", "invalid_address"),
        ("/subject", "type"),
        ("/body", "required"),
        ("/html", "blank"),
        ("/reply_to", "invalid_address"),
        ("/channel", "unknown_value"),
        ("/metadata", "type"),
    }
    assert errors_of(read_contact, {"name": "a\nb", "email": None}) == {
        ("/name", "control_character"),
        ("/email", "type"),
        ("/message", "required"),
    }


@pytest.mark.parametrize("whole", [None, [], "x", 5, True, [GOOD]])
def test_a_request_is_an_object(whole):
    assert errors_of(read_content, whole, accepts=None) == {("", "type")}
    assert errors_of(read_contact, whole) == {("", "type")}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("to", None, "type"),
        ("to", ["a@b.org"], "type"),
        ("to", "", "invalid_address"),
        ("to", "a@b.org\r\n", "invalid_address"),
        ("to", "a" * 321, "too_long"),
        ("to", "sim+nope@simulator.invalid", "unknown_scenario"),
        ("to", "ana@SIMULATOR.invalid", "unknown_scenario"),
        ("subject", "", "blank"),
        ("subject", " \u00a0\u3000", "blank"),
        ("subject", "x" * (SUBJECT_CHARS_MAX + 1), "too_long"),
        ("subject", "\ud800", "lone_surrogate"),
        ("body", "\r\n", "blank"),
        ("body", "x\x00", "control_character"),
        ("body", "x\x1b[0m", "control_character"),
        ("body", "x" * (BODY_CHARS_MAX + 1), "too_long"),
        ("body", {"text": "x"}, "type"),
        ("html", "x\x00", "control_character"),
        ("html", False, "type"),
        ("reply_to", "Elon <elon@xcorp.com>", "invalid_address"),
        ("channel", "sms", "unknown_value"),
        ("channel", None, "unknown_value"),
        ("metadata", {"": 1}, "invalid_name"),
        ("metadata", {"x" * 65: 1}, "invalid_name"),
        ("metadata", {"a\nb": 1}, "invalid_name"),
        ("metadata", {"a": "x" * 257}, "invalid_value"),
        ("metadata", {"a": "\x00"}, "invalid_value"),
        ("metadata", {str(number): number for number in range(METADATA_ENTRIES_MAX + 1)}, "too_many"),
    ],
)
def test_each_field_has_its_bounds(field, value, code):
    assert content_errors(**{field: value}) == {("/" + field, code)}


def test_a_recipient_that_the_simulator_does_not_know_is_told_those_it_knows():
    with pytest.raises(InvalidRequestError) as refused:
        read_content(GOOD | {"to": "sim+nope@simulator.invalid"}, accepts=None)
    [error] = refused.value.errors
    assert all(known in error.detail for known in SIMULATED)
    assert "nope" not in error.detail
    for known in SIMULATED:
        assert read_content(GOOD | {"to": known}, accepts=None).to == known


@pytest.mark.parametrize("value", [[], {}, [1], {"a": 1}, float("inf"), float("nan")])
def test_metadata_is_flat_and_its_pointer_names_the_entry(value):
    assert content_errors(metadata={"good": 1, "bad": value}) == {("/metadata/bad", "type")}


def test_metadata_keeps_the_type_of_each_value():
    metadata = {"text": "1", "true": True, "one": 1, "float": 1.0, "null": None, "large": 2**63 - 1}
    found = read_content(GOOD | {"metadata": metadata}, accepts=None).metadata
    assert {name: (type(value), value) for name, value in found.items()} == {
        name: (type(value), value) for name, value in metadata.items()
    }


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_control_character_gets_into_a_header_field(control):
    assert content_errors(subject=f"a{control}b") == {("/subject", "control_character")}
    assert content_errors(to=f"a{control}b@example.org") == {("/to", "invalid_address")}
    assert content_errors(reply_to=f"a@exa{control}mple.org") == {("/reply_to", "invalid_address")}
    assert errors_of(read_contact, FORM | {"name": f"a{control}b"}) == {("/name", "control_character")}
    assert errors_of(read_contact, FORM | {"email": f"a@b.org{control}"}) == {("/email", "invalid_address")}


def test_the_longest_contact_message_is_taken():
    assert read_contact(FORM | {"message": "ñ" * CONTACT_MESSAGE_CHARS_MAX}).message
    assert errors_of(read_contact, FORM | {"message": "ñ" * (CONTACT_MESSAGE_CHARS_MAX + 1)}) == {
        ("/message", "too_long")
    }


def test_unknown_fields_are_ignored_in_records_and_forms_and_refused_where_a_typo_would_be_silent():
    assert read_content(GOOD | {"sbuject": 1}, accepts=None) == read_content(GOOD, accepts=None)
    assert read_contact(FORM | {"website": ""}) == read_contact(FORM)
    assert content_errors(frozenset({"id"}), id="x", sbuject=1, to=5) == {
        ("/sbuject", "unknown_field"),
        ("/to", "type"),
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), ""),
        (("to",), "/to"),
        (("metadata", "a/b"), "/metadata/a~1b"),
        (("metadata", "a~b"), "/metadata/a~0b"),
        (("metadata", "~1"), "/metadata/~01"),
        (("metadata", "/~"), "/metadata/~1~0"),
        (("items", 3, "to"), "/items/3/to"),
        (("metadata", ""), "/metadata/"),
        (("metadata", "ñ"), "/metadata/ñ"),
        (("metadata", "x" * 64), "/metadata/" + "x" * 64),
        (("metadata", "x" * 65), "/metadata"),
        (("metadata", "a\nb", "c"), "/metadata"),
        (("metadata", "\u202e"), "/metadata"),
    ],
)
def test_a_pointer_is_one_of_rfc_6901(path, expected):
    assert pointer(path) == expected


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=10), max_size=4))
def test_a_pointer_leads_back_to_its_names(path):
    steps = pointer(tuple(path)).split("/")[1:]
    assert [step.replace("~1", "/").replace("~0", "~") for step in steps] == path


CANARY = "Canary"

bad_value = st.sampled_from(
    [
        CANARY,
        f"{CANARY}@{CANARY}@example.org",
        f"{CANARY} <a@b.org>",
        f"{CANARY}\r\nBcc: {CANARY}@example.org",
        f"{CANARY}\x00",
        CANARY * 20_000,
        f"\ud800{CANARY}",
        [CANARY],
        {CANARY: CANARY},
        {CANARY + "\n": 1},
        {CANARY * 20: 1},
        {"a": CANARY * 100},
        {"a": [CANARY]},
        5,
        None,
    ]
)
fields = st.sampled_from(
    ["id", "schema", "to", "subject", "body", "html", "reply_to", "metadata", "channel", "traceparent"]
)
names = fields | st.sampled_from([f"{CANARY}\n{CANARY}", CANARY * 11, f"{CANARY}\u202e"])


def refused(request_object):
    try:
        read_content(request_object, accepts=frozenset({"id"}))
    except InvalidRequestError as invalid:
        return invalid
    return None


@given(st.dictionaries(names, bad_value, min_size=1))
def test_nothing_of_the_input_is_echoed(request_object):
    invalid = refused(request_object)
    assert invalid is not None
    assert CANARY not in str([error.detail for error in invalid.errors])
    # A short printable name of an entry may be named: that is what a pointer is for.
    assert all(CANARY not in error.pointer.removeprefix(f"/metadata/{CANARY}") for error in invalid.errors)
    assert CANARY not in str(invalid).replace(f"/metadata/{CANARY} ", "")


@given(st.dictionaries(names, bad_value, min_size=1))
def test_nothing_of_a_record_is_echoed_in_its_rejection(request_object):
    for raw in (json.dumps(request_object).encode(), f"[1, {json.dumps(request_object)} {CANARY}".encode()):
        for found in decode_requested(raw, None):
            if not isinstance(found, tuple):
                assert CANARY not in str(found).replace(f"/metadata/{CANARY}'", "")


@pytest.mark.parametrize(
    "text",
    [
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e",
        "0191E7A0-5C3F-7CC2-9E0A-3D6F1D2B4C5E",
        "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
    ],
)
def test_a_uuid_is_an_id_in_either_case(text):
    assert read_id(text) == UUID(text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        5,
        "",
        "0191e7a05c3f7cc29e0a3d6f1d2b4c5e",
        "{0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e}",
        "urn:uuid:0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e",
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5",
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5g",
        "0191e7a05-c3f-7cc2-9e0a-3d6f1d2b4c5e",
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e\n",
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c\u0665e",
        "--------------------0191e7a05c3f7cc29e0a3d6f1d2b4c5e"[:36],
    ],
)
def test_anything_else_is_no_id(text):
    with pytest.raises(ValueError, match=r"^must be a UUID such as"):
        read_id(text)


@given(st.text() | st.binary().map(repr))
def test_any_text_is_an_id_or_a_value_error(text):
    try:
        found = read_id(text)
    except ValueError:
        return
    assert str(found) == text.lower()


def test_what_the_parser_lets_through_the_validator_can_judge():
    # As deep as the parser takes it.
    raw = b'{"to": ' + b"[" * 300 + b"]" * 300 + b"}"
    assert ("/to", "type") in errors_of(read_content, parse_json(raw), accepts=None)
