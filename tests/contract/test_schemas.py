"""The JSON Schema files and the code say the same, both ways: what one takes, the other takes."""

import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from infra.contract import DICTIONARY, WITH_SCHEMA, schema_file
from infra.dictionary import dictionary
from schemas import limits, records, results, schedule
from schemas.addresses import ADDRESS_CHARS_MAX, SIMULATED
from schemas.errors import FieldError, InvalidRequestError
from schemas.identity import id_from_key
from schemas.json_text import parse_items, parse_json
from schemas.messages import Content, Reason, Source
from schemas.records import Rejection, decode_requested, encode_request, encode_result
from schemas.states import State
from sender.replies import Phase, judge_reply
from tests.builders import make_notification
from tests.contract.schema import load, validator_of
from tests.fuzzed import fuzzed_value, request
from tests.processes import ROOT

REQUESTED, RESULTS = load("requested"), load("results")
REQUEST = REQUESTED["$defs"]["Request"]["properties"]
RESULT = RESULTS["properties"]

# Beside the content: who and which, and how it came.
ABOUT = {"id", "schema", "traceparent", "producer", "replay_of"}


def fields(schema, path=""):
    """Every field, at any depth, with the path to it."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}/{name}", field
        yield from fields(field, f"{path}/{name}")
        yield from fields(field.get("items", {}), f"{path}/{name}[]")


EVERY_FIELD = [
    *fields(REQUESTED["$defs"]["Request"], "requested"),
    *fields({"properties": RESULT}, "results"),
]


@pytest.mark.parametrize("topic", ["requested", "results"])
def test_it_is_json_schema_2020_12_with_a_name_and_a_version(topic):
    schema = load(topic)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert schema["$id"] == f"urn:relevo:schema:notifications.{topic}:1"
    assert re.fullmatch(r"1\.\d+", schema["version"])


def test_the_code_names_the_files_as_they_name_themselves():
    assert (REQUESTED["$id"], RESULTS["$id"]) == (records.REQUEST_SCHEMA_ID, records.RESULT_SCHEMA_ID)
    assert [schema_file(topic).name for topic in WITH_SCHEMA] == [
        "notifications.requested.json",
        "notifications.results.json",
    ]


@pytest.mark.parametrize(("path", "field"), EVERY_FIELD, ids=[path for path, _ in EVERY_FIELD])
def test_every_field_says_what_it_means_and_gives_an_example_that_is_valid(path, field):
    assert field["description"].endswith("."), path
    root = REQUESTED if path.startswith("requested") else RESULTS
    for example in field["examples"]:
        Draft202012Validator({"$defs": root["$defs"], **field}).validate(example)


def test_its_fields_are_those_of_the_code():
    assert REQUEST.keys() == Content.model_fields.keys() | ABOUT | schedule.FIELDS
    assert RESULT.keys() == json.loads(encode_result(a_rejection())).keys()
    whole = make_notification(
        html="h",
        reply_to="a@example.org",
        metadata={},
        on_doubt="resend",
        scheduled_for=datetime(2026, 1, 1, tzinfo=UTC),
        expires_at=datetime(2026, 1, 1, tzinfo=UTC),
        producer="billing",
        replay_of=UUID(int=1),
    )
    assert encode_request(whole).keys() <= REQUEST.keys()


def test_its_bounds_are_those_of_the_code():
    array = REQUESTED["oneOf"][1]
    assert (array["minItems"], array["maxItems"]) == (1, limits.REQUESTS_PER_RECORD_MAX)
    assert REQUESTED["$defs"]["Address"]["maxLength"] == ADDRESS_CHARS_MAX
    assert REQUESTED["$defs"]["Text"]["maxLength"] == limits.BODY_CHARS_MAX
    assert f"at most {limits.SCHEDULE_DAYS_MAX} days" in REQUEST["scheduled_for"]["description"]
    assert REQUEST["subject"]["maxLength"] == limits.SUBJECT_CHARS_MAX
    assert REQUEST["producer"]["maxLength"] == limits.PRODUCER_CHARS_MAX
    metadata = REQUEST["metadata"]
    assert metadata["maxProperties"] == RESULT["metadata"]["maxProperties"] == limits.METADATA_ENTRIES_MAX
    assert metadata["propertyNames"]["maxLength"] == limits.METADATA_NAME_CHARS_MAX
    assert metadata["additionalProperties"]["anyOf"][0]["maxLength"] == limits.METADATA_VALUE_CHARS_MAX
    assert RESULT["reason"]["properties"]["smtp"]["maxLength"] == limits.SMTP_TEXT_CHARS_MAX
    assert RESULT["source"]["properties"]["index"]["maximum"] == limits.REQUESTS_PER_RECORD_MAX - 1


def test_its_states_reasons_and_choices_are_those_of_the_code():
    assert [each["const"] for each in RESULT["status"]["oneOf"]] == list(State)
    kinds = RESULT["reason"]["properties"]["class"]["oneOf"]
    assert {each["const"] for each in kinds} == set(get_args(get_type_hints(Reason)["kind"]))
    for name in ("channel", "on_doubt"):
        assert set(REQUEST[name]["enum"]) == set(get_args(Content.model_fields[name].annotation))
        assert REQUEST[name]["default"] == Content.model_fields[name].default
    doors = RESULT["source"]["properties"]["door"]["enum"]
    assert set(doors) == set(get_args(get_type_hints(Source)["door"]))


def test_every_code_of_a_reason_that_the_code_names_is_in_the_table():
    known = {each["code"] for each in RESULT["reason"]["properties"]["code"]["x-codes"]}
    said = set()
    kinds = "|".join(get_args(get_type_hints(Reason)["kind"]))
    for path in (*(ROOT / "sender").rglob("*.py"), *(ROOT / "ingest").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        said |= set(re.findall(r'judge_silence\([^()"]+, "(\w+)"\)', text))
        said |= set(re.findall(r'Judgement\([^()"]+, "(\w+)"', text))
        said |= set(re.findall(r'Reason\("\w+", "(\w+)"', text))
        # What SQL writes by itself.
        said |= set(re.findall(rf"'(?:{kinds})'(?: END)?,\s+'(\w+)'", text))
    assert {"connection_lost", "timeout", "worker_lost"} <= said, "the patterns still find them"
    # What stops the channel is no reason of a notification.
    assert said - {"tls_failure", "not_supported"} <= known
    assert judge_reply(Phase.RCPT, 550, "no").code == "smtp_550"


# -- requests: the schema and the validation -------------------------------------------------------------------------


def accepted(item) -> bool:
    return not isinstance(decode_requested(json.dumps(item).encode(), None)[0], Rejection)


def items_of(raw):
    """The items of a record that is JSON."""
    try:
        parsed = parse_json(raw)
    except InvalidRequestError:
        parsed = parse_items(raw)
    if isinstance(parsed, list):
        return [each for each in parsed if not isinstance(each, InvalidRequestError)]
    return [] if parsed is None else [parsed]


def in_words_of_the_schema(item) -> bool:
    """Whether the schema has words for all that could be wrong with *item*."""
    # One moment against another, and both against now.
    return not isinstance(item, dict) or not (item.keys() & schedule.FIELDS)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_schema_takes_the_validation_takes_and_the_other_way_round(seed):
    validator = Draft202012Validator(
        {"$defs": REQUESTED["$defs"], "$ref": "#/$defs/Request"},
        format_checker=validator_of("requested").format_checker,
    )
    rng = random.Random(seed)
    verdicts = {True: 0, False: 0}
    for item in (each for _ in range(600) for each in items_of(fuzzed_value(rng))):
        taken = accepted(item)
        valid = validator.is_valid(item)
        if in_words_of_the_schema(item):
            assert taken == valid, (item, next(validator.iter_errors(item), None))
        elif taken:
            assert valid, (item, next(validator.iter_errors(item), None))
        verdicts[taken] += 1
    assert min(verdicts.values()) > 200, "both are looked at"


def test_an_array_is_judged_item_by_item_and_bounded_alike():
    rng = random.Random(0)
    for length in (0, 1, 500, 501):
        value = [request(rng) for _ in range(length)]
        found = decode_requested(json.dumps(value).encode(), None)
        valid = validator_of("requested").is_valid(value)
        assert valid == (len(found) == length and not isinstance(found[0], Rejection)) == (1 <= length <= 500)


def made_from(schema, root):
    """A strategy of values that *schema* describes."""
    if "$ref" in schema:
        return made_from(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*(made_from(each, root) for each in schema["anyOf"]))
    kinds = schema.get("type", [])
    if isinstance(kinds, list) and kinds:
        return st.one_of(*(made_from(schema | {"type": kind}, root) for kind in kinds))
    match schema.get("format") or kinds:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "number":
            return st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        case "uuid":
            return st.uuids().map(str) | st.uuids().map(lambda made: str(made).upper())
        case "email":
            return st.from_regex(
                r"[a-z0-9]{1,20}([._+-][a-z0-9]{1,9}){0,3}@([a-z0-9]{1,20}\.){1,3}[a-z]{2,9}", fullmatch=True
            )
        case "object":
            names = made_from({"type": "string"} | schema["propertyNames"], root)
            return st.dictionaries(
                names, made_from(schema["additionalProperties"], root), max_size=schema["maxProperties"]
            )
        case "string":
            # ECMA's $ is the end, and Python's also stands before a last line feed.
            pattern = schema["pattern"].removesuffix("$") + r"\Z"
            longest = schema.get("maxLength", 100)
            return st.from_regex(pattern).filter(lambda text: schema.get("minLength", 0) <= len(text) <= longest)
        case _:
            return st.none() | st.text(max_size=5)


_OPTIONAL = sorted(REQUEST.keys() - set(REQUESTED["$defs"]["Request"]["required"]) - schedule.FIELDS)

requests_of_the_schema = st.fixed_dictionaries(
    {name: made_from(REQUEST[name], REQUESTED) for name in REQUESTED["$defs"]["Request"]["required"]},
    optional={name: made_from(REQUEST[name], REQUESTED) for name in _OPTIONAL},
)


@given(requests_of_the_schema)
def test_what_is_made_from_the_schema_is_accepted(item):
    assert [each for each in decode_requested(json.dumps(item).encode(), None) if isinstance(each, Rejection)] == []


@pytest.mark.parametrize("address", SIMULATED)
def test_the_schema_knows_every_recipient_of_the_simulator(address):
    rng = random.Random(0)
    assert validator_of("requested").is_valid(request(rng) | {"to": address})
    assert not validator_of("requested").is_valid(request(rng) | {"to": address.replace("sim+", "sim+x")})


# -- results ---------------------------------------------------------------------------------------------------------


def a_rejection(identity=None, code="invalid_request"):
    return results.rejection(
        Rejection(7, identity, code, (FieldError("/to", "required", "is required"),), "billing"),
        Source("kafka", 3, 912, 7),
        came_at=results.now(),
        occurred_at=results.now(),
        trace_id=None,
    )


moments = st.integers(0, 253_402_300_799_000).map(results.moment)
optional_texts = st.none() | st.text(max_size=20)
changes = st.builds(
    results.change,
    id=st.uuids(),
    seq=st.integers(1, 32_767),
    status=st.sampled_from([state for state in State if state is not State.REJECTED]),
    reason=st.none()
    | st.builds(
        Reason,
        st.sampled_from(get_args(get_type_hints(Reason)["kind"])),
        st.sampled_from(["smtp_250", "connection_lost", "worker_lost"]),
        optional_texts,
    ),
    attempt=st.integers(0, 32_767),
    channel=st.just("email"),
    source=st.none()
    | st.builds(
        Source, st.sampled_from(["http", "kafka"]), st.integers(0, 5), st.integers(0, 2**40), st.integers(0, 499)
    ),
    recipient_hash=st.sampled_from([None, "ab" * 16]),
    accepted_at=moments,
    occurred_at=moments,
    trace_id=st.sampled_from([None, "0af7651916cd43dd8448eb211c80319c"]),
    metadata=made_from(REQUEST["metadata"], REQUESTED),
    producer=optional_texts,
    replay_of=st.none() | st.uuids(),
    test=st.booleans(),
)


@given(changes)
def test_whatever_is_told_follows_the_schema(change):
    validator_of("results").validate(json.loads(encode_result(change)))


@pytest.mark.parametrize("code", ["invalid_request", "invalid_json", "idempotency_conflict"])
@pytest.mark.parametrize("identity", [None, id_from_key("a", "b")], ids=["without an id", "with one"])
def test_a_rejection_follows_the_schema(identity, code):
    validator_of("results").validate(json.loads(encode_result(a_rejection(identity, code))))


def test_every_code_of_a_field_error_is_in_the_table():
    known = {each["code"] for each in RESULT["errors"]["items"]["properties"]["code"]["x-codes"]}
    rng = random.Random(5)
    seen = {
        error.code
        for _ in range(1500)
        for found in decode_requested(fuzzed_value(rng), None, at=results.now())
        if isinstance(found, Rejection)
        for error in found.errors
    }
    assert len(seen) > 15
    assert seen <= known


@pytest.mark.parametrize(
    "change",
    [
        {"status": "delivered"},
        {"seq": -1},
        {"seq": 0},
        {"id": None},
        {"id": "7"},
        {"terminal": "yes"},
        {"reason": {"class": "other", "code": "x", "smtp": None}},
        {"accepted_at": "2026-11-24T13:39:01.257+01:00"},
        {"source": {"door": "kafka"}},
        {"errors": []},
        {"status": "rejected"},
    ],
    ids=str,
)
def test_the_schema_of_results_refuses_what_is_none(change):
    good = json.loads(encode_result(changes_example()))
    validator_of("results").validate(good)
    assert not validator_of("results").is_valid(good | change)


def changes_example():
    return results.change(
        id=UUID(int=1),
        seq=1,
        status=State.QUEUED,
        reason=None,
        attempt=0,
        channel="email",
        source=None,
        recipient_hash=None,
        accepted_at=results.now(),
        occurred_at=results.now(),
        trace_id=None,
        metadata=None,
        producer=None,
        replay_of=None,
        test=False,
    )


# -- the dictionary --------------------------------------------------------------------------------------------------


def test_the_dictionary_is_what_the_schemas_say():
    assert Path(DICTIONARY).read_text(encoding="utf-8") == dictionary(), "write it anew: python -m infra.dictionary"


def test_the_dictionary_names_every_field_state_class_and_code():
    told = set(re.findall(r"^\| `([^`]+)` \|", dictionary(), re.MULTILINE))
    dotted = {path.partition("/")[2].replace("/", ".") for path, _ in EVERY_FIELD}
    assert dotted <= told
    assert set(State) <= told
    assert set(get_args(get_type_hints(Reason)["kind"])) <= told
    assert {"smtp_NNN", "idempotency_conflict", "invalid_address"} <= told
