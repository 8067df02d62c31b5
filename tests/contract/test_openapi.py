"""The contract and the service name the same things, both ways."""

import json
import re

import pytest
import yaml
from openapi_spec_validator import validate

from infra.contract import DICTIONARY, WITH_SCHEMA
from infra.health import DependencyHealth, Readiness
from ingest.app import make_app
from ingest.batch import Batches
from ingest.contract import Contract
from ingest.cors import Cors
from ingest.exchange import Traffic, documented
from ingest.handlers import Api, Health, Pages
from ingest.problems import KINDS
from ingest.reading import Reading
from ingest.replay_handlers import Replays
from ingest.replays import OrderState, Skip, read_wanted
from ingest.scheduling import Scheduling
from ingest.stats import Stats
from ingest.validate import Validation
from ingest.webhooks import WebhookApi
from schemas import limits
from schemas.addresses import ADDRESS_CHARS_MAX
from schemas.messages import ContactRequest, Content
from schemas.records import Rejection, read_requested
from schemas.states import IN_LEDGER, TERMINAL
from schemas.topics import REQUESTED
from tests.processes import ROOT

METHODS = {"get", "post", "put", "patch", "delete", "options", "head"}


@pytest.fixture(scope="module")
def contract():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


@pytest.fixture(scope="module")
def routes():
    readiness = Readiness()
    app = make_app(
        api=Api(acceptor=None, gate=None, access=None, limits=None, contact_recipients=()),
        batches=Batches(acceptor=None, gate=None, access=None, limits=None),
        reading=Reading(store=None, lists=None, waiting=None, access=None),
        replays=Replays(None, None, None),
        scheduling=Scheduling(store=None, changes=None, access=None),
        validation=Validation(None),
        stats=Stats(None, None),
        webhooks=WebhookApi(access=None, limits=None, store=None, egress=None, plain_allowed=False),
        contract=Contract(),
        health=Health(DependencyHealth({}), readiness),
        pages=Pages(b"", b"", ""),
        cors=Cors([], local=False),
        traffic=Traffic(),
    )
    return {(route.method.lower(), route.resource.canonical) for route in app.router.routes()}


def test_it_is_openapi_3_1(contract):
    assert contract["openapi"].startswith("3.1.")
    validate(contract)


def test_every_route_is_in_the_contract_and_the_other_way_round(contract, routes):
    named = {(method, path) for path, item in contract["paths"].items() for method in METHODS & item.keys()}
    # HEAD goes with GET, and OPTIONS says what is allowed; only the preflight is worth a word of its own.
    served = {(method, documented(path)) for method, path in routes if method not in {"head", "options"}}
    assert served == {(method, path) for method, path in named if method != "options"}


def test_every_path_is_there_with_and_without_its_last_slash(contract, routes):
    for path, item in contract["paths"].items():
        for method in METHODS & item.keys():
            assert {(method, path.rstrip("/")), (method, path.rstrip("/") + "/")} <= routes


def test_every_operation_lists_the_problems_that_it_can_answer_with(contract):
    for path in ("/api/contact/", "/api/notify/", "/api/notify/batch"):
        answers = set(contract["paths"][path]["post"]["responses"])
        assert {"202", "400", "408", "413", "415", "422", "429", "500", "503"} <= answers
        # In a batch an item says so.
        assert ("409" in answers) is ("207" not in answers)
    assert "401" in contract["paths"]["/api/notify/"]["post"]["responses"]
    statuses = {
        status
        for item in contract["paths"].values()
        for each in METHODS & item.keys()
        for status in item[each]["responses"]
    }
    assert statuses - {"200", "202", "204", "207"} == {str(kind.status) for kind in KINDS.values()} - {"405"}


def test_its_fields_are_those_of_the_code(contract):
    schemas = contract["components"]["schemas"]
    assert schemas["NotifyRequest"]["properties"].keys() == Content.model_fields.keys() | {"id", "time_zone"}
    assert schemas["ContactRequest"]["properties"].keys() == ContactRequest.model_fields.keys()
    assert schemas["State"]["enum"] == list(IN_LEDGER)
    assert schemas["Step"]["properties"]["step"]["enum"] == ["accepted", "published", "deduplicated", *IN_LEDGER]


def test_its_bounds_are_those_of_the_code(contract):
    schemas = contract["components"]["schemas"]
    notify, contact = schemas["NotifyRequest"]["properties"], schemas["ContactRequest"]["properties"]
    assert notify["subject"]["maxLength"] == limits.SUBJECT_CHARS_MAX
    assert notify["body"]["maxLength"] == notify["html"]["anyOf"][0]["maxLength"] == limits.BODY_CHARS_MAX
    assert notify["metadata"]["maxProperties"] == limits.METADATA_ENTRIES_MAX
    assert notify["metadata"]["propertyNames"]["maxLength"] == limits.METADATA_NAME_CHARS_MAX
    assert notify["metadata"]["additionalProperties"]["anyOf"][0]["maxLength"] == limits.METADATA_VALUE_CHARS_MAX
    assert contact["name"]["maxLength"] == limits.NAME_CHARS_MAX
    assert contact["message"]["maxLength"] == limits.CONTACT_MESSAGE_CHARS_MAX
    assert schemas["Address"]["maxLength"] == ADDRESS_CHARS_MAX
    key = contract["components"]["parameters"]["IdempotencyKey"]["schema"]
    assert key["maxLength"] == limits.IDEMPOTENCY_KEY_CHARS_MAX


def test_what_it_says_of_the_kafka_contract_is_what_is_served(contract):
    served = {topic.name + ".json" for topic in WITH_SCHEMA} | {DICTIONARY.name}
    assert set(contract["paths"]["/schemas/{name}"]["get"]["parameters"][0]["schema"]["enum"]) == served
    validate_path = contract["paths"]["/api/validate"]["post"]
    assert f"{REQUESTED.record_bytes_max:,}" in validate_path["description"]
    verdicts = contract["components"]["schemas"]
    assert verdicts["Verdicts"]["properties"]["items"]["maxItems"] == limits.REQUESTS_PER_RECORD_MAX
    body = validate_path["requestBody"]["content"]["application/json"]["examples"]["array"]["value"]
    answer = validate_path["responses"]["200"]["content"]["application/json"]["example"]["items"]
    told = [
        {"pointer": error.pointer, "code": error.code, "detail": error.detail}
        for each in read_requested(json.dumps(body).encode(), [])
        if isinstance(each, Rejection)
        for error in each.errors
    ]
    assert [item["verdict"] for item in answer] == ["accepted", "rejected"]
    assert sorted(answer[1]["errors"], key=str) == sorted(told, key=str)


def test_its_examples_are_valid(contract):
    for path, model in (("/api/contact/", ContactRequest), ("/api/notify/", Content)):
        content = contract["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        given = (
            [content["example"]] if "example" in content else [each["value"] for each in content["examples"].values()]
        )
        for example in given:
            model.model_validate(example)


def test_sent_is_never_called_delivered(contract):
    said = re.sub(r"\s+", " ", contract["components"]["schemas"]["State"]["description"])
    assert "no proof of delivery" in said


def test_orders_to_replay_have_the_bounds_and_the_reasons_of_the_code(contract):
    schemas = contract["components"]["schemas"]
    fields = schemas["ReplayRequest"]["properties"]
    assert fields["ids"]["maxItems"] == limits.REPLAY_IDS_MAX
    assert fields["rate_per_s"]["maximum"] == limits.REPLAY_RATE_MAX
    assert fields["reason"]["maxLength"] == limits.REPLAY_REASON_CHARS_MAX
    assert fields["asked_by"]["maxLength"] == limits.REPLAY_NAME_CHARS_MAX
    assert fields["status"]["items"]["enum"] == [state for state in IN_LEDGER if state in TERMINAL]
    assert schemas["Skipped"]["required"] == list(schemas["Skipped"]["properties"]) == list(Skip)
    assert schemas["Replay"]["properties"]["state"]["enum"] == list(OrderState)
    post = contract["paths"]["/api/replays"]["post"]
    assert re.findall(r"^\| `(\w+)` \|", post["description"], re.MULTILINE) == list(Skip)
    for example in post["requestBody"]["content"]["application/json"]["examples"].values():
        read_wanted(example["value"])
