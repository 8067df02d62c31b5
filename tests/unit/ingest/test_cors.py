"""CORS: exactly the configured origins."""

import pytest

from ingest.cors import Cors

SITE = "https://www.example.org"


@pytest.mark.parametrize("preflight", [True, False])
def test_a_configured_origin_may_call_without_credentials(preflight):
    headers = Cors([SITE], local=False).headers(SITE, preflight=preflight)
    assert headers["Access-Control-Allow-Origin"] == SITE
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers


def test_a_preflight_says_what_may_be_sent_and_for_how_long_it_holds():
    headers = Cors([SITE], local=False).headers(SITE, preflight=True)
    assert headers["Access-Control-Allow-Methods"] == "POST"
    assert headers["Access-Control-Allow-Headers"] == "Content-Type, Idempotency-Key, traceparent"
    assert headers["Access-Control-Max-Age"] == "600"


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "*",
        "http://www.example.org",
        "https://www.example.org.evil.org",
        "https://www.example.org:8443",
        "http://localhost",
        "http://127.0.0.1:3000",
    ],
)
def test_no_other_origin_gets_anything(origin):
    assert Cors([SITE], local=False).headers(origin) == {"Vary": "Origin"}


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://localhost", "http://127.0.0.1:5173"])
def test_in_development_pages_on_this_machine_may_call(origin):
    assert Cors([], local=True).headers(origin)["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "origin", ["http://localhost.evil.org", "http://127.0.0.1.evil.org", "http://localhost:3000/x"]
)
def test_what_only_looks_like_this_machine_may_not(origin):
    assert "Access-Control-Allow-Origin" not in Cors([], local=True).headers(origin)
