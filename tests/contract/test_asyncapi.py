"""The AsyncAPI document: well-formed, complete, and true of what is written to Kafka."""

import json
import shutil
import subprocess
from datetime import timedelta

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from infra.contract import ASYNCAPI, FOLDER
from schemas import results, topics
from schemas.dead_letters import Origin, dead_letter_headers
from schemas.errors import FieldError
from schemas.messages import Reason, Source
from schemas.records import Rejection, encode_result_record
from schemas.states import State
from tests.contract.schema import validator_of
from tests.contract.test_schemas import changes_example

DOCUMENT = yaml.safe_load(ASYNCAPI.read_text(encoding="utf-8"))

CHANNELS = {
    "requested": topics.REQUESTED,
    "results": topics.RESULTS,
    "status": topics.STATUS,
    "deadLetters": topics.DEAD_LETTERS,
}

INSTALL_S_MAX = 90


def nodes(node):
    yield node
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(each)


def resolved(reference):
    """What *reference* points to: a place in the document, or a file beside it."""
    if reference.startswith("./"):
        return json.loads((FOLDER / reference).read_text(encoding="utf-8"))
    found = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def schema_of(message, part):
    return resolved(DOCUMENT["components"]["messages"][message][part]["$ref"])


def texts(headers):
    return {name: value.decode() for name, value in headers}


def test_every_reference_leads_somewhere():
    references = [node["$ref"] for node in nodes(DOCUMENT) if isinstance(node, dict) and "$ref" in node]
    assert len(references) > 10
    for reference in references:
        assert resolved(reference)


def test_every_channel_is_a_topic_of_the_catalogue_as_it_is():
    assert DOCUMENT["channels"].keys() == CHANNELS.keys()
    # What lies between the services is no part of the contract.
    assert {topic.name for topic in topics.TOPICS} - {topic.name for topic in CHANNELS.values()} == {
        topics.DEDUPLICATED.name
    }
    for name, topic in CHANNELS.items():
        channel = DOCUMENT["channels"][name]
        assert channel["address"] == topic.name
        kafka = channel["bindings"]["kafka"]
        assert (kafka["topic"], kafka["partitions"]) == (topic.name, topic.partitions)
        assert kafka["topicConfiguration"] == {
            "cleanup.policy": [topic.cleanup_policy],
            "retention.ms": topic.retention_ms,
            "max.message.bytes": topic.record_bytes_max,
        }


def test_every_channel_is_used_by_an_operation_with_its_own_messages():
    used = {}
    for operation in DOCUMENT["operations"].values():
        channel = operation["channel"]["$ref"].rpartition("/")[2]
        used[channel] = operation["action"]
        named = {each["$ref"] for each in operation["messages"]}
        assert named == {f"#/channels/{channel}/messages/{name}" for name in DOCUMENT["channels"][channel]["messages"]}
    assert used == {"requested": "receive", "results": "send", "status": "send", "deadLetters": "send"}


def test_every_header_says_what_it_means():
    for schema in DOCUMENT["components"]["schemas"].values():
        assert schema["description"]
        assert all(field["description"] for field in schema["properties"].values())


def test_its_examples_are_valid():
    examples = DOCUMENT["components"]["messages"]["Request"]["examples"]
    for example in examples:
        headers = example.get("headers", {})
        Draft202012Validator(schema_of("Request", "headers")).validate(headers)
        identity = {"id": headers["ce_id"]} if headers else {}
        validator_of("requested").validate(identity | example["payload"])


@pytest.mark.parametrize("status", [state for state in State if state is not State.REJECTED])
def test_a_result_has_the_headers_that_it_names_and_no_others(status):
    change = results.change(
        **{
            name: getattr(changes_example(), name)
            for name in (
                "id",
                "channel",
                "source",
                "recipient_hash",
                "accepted_at",
                "metadata",
                "producer",
                "replay_of",
            )
        },
        seq=2,
        status=status,
        reason=Reason("accepted", "smtp_250"),
        attempt=1,
        occurred_at=results.now() + timedelta(seconds=1),
        trace_id=None,
        test=False,
    )
    schema = schema_of("Result", "headers")
    headers = texts(encode_result_record(change, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")[2])
    Draft202012Validator(schema, format_checker=validator_of("results").format_checker).validate(headers)
    assert headers.keys() == schema["properties"].keys()


def test_a_rejection_and_a_dead_letter_have_the_headers_that_it_names():
    rejected = Rejection(0, None, "invalid_json", (FieldError("", "syntax", "not JSON"),))
    told = results.rejection(
        rejected, Source("kafka", 0, 1, 0), came_at=results.now(), occurred_at=results.now(), trace_id=None
    )
    Draft202012Validator(schema_of("Result", "headers")).validate(texts(encode_result_record(told)[2]))
    letter = texts(dead_letter_headers(Origin("t", 0, 1, -1), [], "invalid_json", "not JSON"))
    schema = schema_of("DeadLetter", "headers")
    Draft202012Validator(schema).validate(letter)
    assert letter.keys() == schema["properties"].keys()


def test_the_official_schema_of_asyncapi_3_takes_it(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed here, and the schema of AsyncAPI comes from there")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "@asyncapi/specs@6.11.1"]
    try:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=INSTALL_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the package registry does not answer")
    if done.returncode != 0:
        pytest.skip("@asyncapi/specs cannot be installed here")
    schema = json.loads((tmp_path / "node_modules/@asyncapi/specs/schemas/3.0.0.json").read_text(encoding="utf-8"))
    validator = Draft7Validator(schema)
    validator.validate(DOCUMENT)
    # It does look: an operation needs a channel.
    broken = DOCUMENT | {"operations": {"x": {"action": "send"}}}
    assert not validator.is_valid(broken)
