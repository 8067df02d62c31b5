"""The contract and the service name the same things, both ways."""

import re

import pytest
import yaml
from openapi_spec_validator import validate

from infra.health import DependencyHealth, Readiness
from ingest.app import make_app
from ingest.cors import Cors
from ingest.exchange import Traffic, documented
from ingest.handlers import Api, Health, Pages
from ingest.problems import KINDS
from schemas import limits
from schemas.addresses import ADDRESS_CHARS_MAX
from schemas.messages import ContactRequest, Content
from schemas.states import IN_LEDGER
from tests.processes import ROOT

METHODS = {"get", "post", "put", "patch", "delete", "options", "head"}


@pytest.fixture(scope="module")
def contract():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


@pytest.fixture(scope="module")
def routes():
    readiness = Readiness()
    app = make_app(
        api=Api(acceptor=None, gate=None, store=None, access=None, contact_recipients=()),
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
    for path in ("/api/contact/", "/api/notify/"):
        answers = set(contract["paths"][path]["post"]["responses"])
        assert {"202", "400", "408", "409", "413", "415", "422", "500", "503"} <= answers
    assert "401" in contract["paths"]["/api/notify/"]["post"]["responses"]
    statuses = {
        status
        for item in contract["paths"].values()
        for each in METHODS & item.keys()
        for status in item[each]["responses"]
    }
    assert statuses - {"200", "202", "204"} == {str(kind.status) for kind in KINDS.values()} - {"405"}


def test_its_fields_are_those_of_the_code(contract):
    schemas = contract["components"]["schemas"]
    assert schemas["NotifyRequest"]["properties"].keys() == Content.model_fields.keys() | {"id"}
    assert schemas["ContactRequest"]["properties"].keys() == ContactRequest.model_fields.keys()
    assert schemas["State"]["enum"] == list(IN_LEDGER)
    assert schemas["Step"]["properties"]["step"]["enum"] == ["accepted", "published", *IN_LEDGER]


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
