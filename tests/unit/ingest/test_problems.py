"""Problems: one shape for every error, and nothing of what was sent in it."""

import json
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from ingest.problems import KINDS, Problem, ProblemError, problem_of, problem_response
from schemas.errors import ConfigurationError, FieldError, InvalidRequestError, TransientError

CONTRACT = yaml.safe_load((Path(__file__).parents[3] / "openapi.yaml").read_text())


def document_of(problem, instance="/api/notify/"):
    response = problem_response(problem, instance=instance, request_id="r", trace_id="t")
    return response, json.loads(response.body)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProblemError("unauthorized"), "unauthorized"),
        (InvalidRequestError("invalid_json", [FieldError("", "syntax", "no")]), "invalid_json"),
        (InvalidRequestError("invalid_request", [FieldError("/to", "required", "no")]), "invalid_request"),
        (TransientError("away"), "unavailable"),
        (web.HTTPNotFound(), "not_found"),
        (web.HTTPMethodNotAllowed("GET", ["POST"]), "method_not_allowed"),
        (web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2), "body_too_large"),
        (web.HTTPBadRequest(), "bad_request"),
        (web.HTTPInternalServerError(), "internal_error"),
        (ConfigurationError("wrong"), "internal_error"),
        (ZeroDivisionError("secret"), "internal_error"),
    ],
)
def test_every_error_is_a_problem(error, code):
    assert problem_of(error).code == code


def test_a_problem_has_everything_that_the_contract_asks_for():
    problem = Problem("invalid_request", [FieldError("/to", "required", "is required")])
    response, document = document_of(problem)
    assert response.content_type == "application/problem+json"
    assert response.status == document["status"] == 422
    assert document["type"] == "/docs#invalid_request"
    assert document["errors"] == [{"pointer": "/to", "code": "required", "detail": "is required"}]
    assert document.keys() == set(CONTRACT["components"]["schemas"]["Problem"]["required"])


def test_a_405_says_what_is_allowed():
    response, _ = document_of(problem_of(web.HTTPMethodNotAllowed("GET", ["POST"])))
    assert response.headers["Allow"] == "POST"


def test_a_503_says_when_to_come_back():
    for code in ("unavailable", "outbox_full"):
        assert int(document_of(Problem(code))[0].headers["Retry-After"]) > 0


def test_a_401_says_how_to_identify_oneself():
    assert document_of(Problem("unauthorized"))[0].headers["WWW-Authenticate"].startswith("Bearer")


def test_a_long_path_is_cut():
    assert len(document_of(Problem("not_found"), "/" + "a" * 8000)[1]["instance"]) == 200


def test_the_contract_lists_exactly_these_codes_with_these_statuses():
    assert set(CONTRACT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == KINDS.keys()
    rows = [line.split("|") for line in CONTRACT["info"]["description"].splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `"): int(row[2]) for row in rows} == {code: kind.status for code, kind in KINDS.items()}
