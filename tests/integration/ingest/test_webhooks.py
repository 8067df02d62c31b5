"""Webhooks as their clients manage them: each its own, secrets once, and nothing inside may be named."""

import pytest

from tests.integration.ingest.process import Ingest

BILLING, SHOP = "billing-key-0123456789", "shop-key-01234567890123"


@pytest.fixture(scope="module")
def door(place, tmp_path_factory):
    """A door with two clients, in production, that may send webhooks to one network inside."""
    service = Ingest(
        tmp_path_factory.mktemp("door"),
        **place,
        profile="production",
        mail_from="relevo@example.org",
        api_keys=f"billing:{BILLING},shop:{SHOP}",
        webhook_networks="10.20.0.0/16",
    )
    service.start()
    yield service
    assert service.stop() == 0, service.tail()


@pytest.fixture
async def ask(door, http):
    """Return a function: method, what of the webhook -> answer, as billing unless another key is given."""

    async def call(method, path="", key=BILLING, **given):
        return await http(method, f"{door.url}/api/webhook{path}", headers={"Authorization": f"Bearer {key}"}, **given)

    yield call
    for key in (BILLING, SHOP):
        await call("DELETE", key=key)


URL = "https://10.20.0.7:8443/hook"


async def test_the_secret_is_told_once_and_again_only_with_a_rotation(ask):
    made = await ask("PUT", json={"url": URL})
    assert made.status == 200
    changed = await ask("PUT", json={"url": f"{URL}/2", "statuses": ["sent"]})
    shown = await ask("GET")
    assert made.body["secret"].startswith("whsec_")
    assert "secret" not in changed.body
    assert shown.body == changed.body
    assert (shown.body["url"], shown.body["statuses"]) == (f"{URL}/2", ["sent"])
    rotated = await ask("POST", "/rotate")
    assert rotated.body["secret"] not in (made.body["secret"], None)
    assert rotated.body["previous_secret_until"] > rotated.body["created_at"]


async def test_a_client_sees_and_changes_nobody_elses(ask):
    await ask("PUT", json={"url": URL})
    for method, path in (("GET", ""), ("POST", "/rotate"), ("POST", "/test"), ("GET", "/deliveries")):
        assert (await ask(method, path, key=SHOP)).status == 404
    await ask("DELETE", key=SHOP)
    assert (await ask("GET")).status == 200
    await ask("DELETE")
    assert (await ask("GET")).status == 404
    assert (await ask("DELETE")).status == 204


async def test_without_a_key_there_is_nothing(ask):
    paths = [("PUT", ""), ("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/test"), ("POST", "/resend")]
    for method, path in [*paths, ("GET", "/deliveries")]:
        assert (await ask(method, path, key="unknown")).status == 401


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://8.8.8.8/", "invalid_url"),
        ("https://user@8.8.8.8/", "invalid_url"),
        ("https://127.0.0.1/", "forbidden_address"),
        ("https://localhost/", "forbidden_address"),
        ("https://[::1]/", "forbidden_address"),
        ("https://[::ffff:10.0.0.1]/", "forbidden_address"),
        ("https://0.0.0.0/", "forbidden_address"),
        ("https://169.254.169.254/latest/meta-data/", "forbidden_address"),
        ("https://10.21.0.1/", "forbidden_address"),
        ("https://2130706433/", "forbidden_address"),
        ("https://0177.0.0.1/", "forbidden_address"),
        ("https://0x7f.1/", "forbidden_address"),
        ("https://a..b/", "unresolvable"),
    ],
)
async def test_in_production_nothing_inside_and_nothing_in_clear_can_be_named(ask, url, code):
    refused = await ask("PUT", json={"url": url})
    assert refused.status == 422
    assert [(each["pointer"], each["code"]) for each in refused.body["errors"]] == [("/url", code)]
    assert url.encode() not in refused.raw
    assert (await ask("GET")).status == 404


async def test_in_development_this_machine_and_http_will_do(ingest, http):
    answer = await http("PUT", f"{ingest.url}/api/webhook/", json={"url": "http://localhost:8080/hook"})
    assert answer.status == 200
    refused = await http("PUT", f"{ingest.url}/api/webhook/", json={"url": "https://10.0.0.1/"})
    assert refused.body["errors"][0]["code"] == "forbidden_address"
    assert (await http("DELETE", f"{ingest.url}/api/webhook")).status == 204


async def test_a_test_stands_in_the_deliveries_and_nothing_is_resent_while_it_waits(ask):
    await ask("PUT", json={"url": URL})
    tested = await ask("POST", "/test")
    assert tested.status == 202
    page = await ask("GET", "/deliveries?state=pending")
    (found,) = page.body["items"]
    assert (found["webhook_id"], found["type"], found["attempt"]) == (tested.body["webhook_id"], "webhook.test", 0)
    assert page.body["next"] is None
    window = {"from": "2026-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    resent = await ask("POST", "/resend", json=window)
    assert (resent.status, resent.body) == (202, {"deliveries": 0, "next": None})


async def test_pages_lead_on_to_the_last(ask, http, door):
    await ask("PUT", json={"url": URL})
    made = {(await ask("POST", "/test")).body["webhook_id"] for _ in range(5)}
    seen, path = [], "/api/webhook/deliveries?limit=2&state=pending"
    while path:
        page = await http("GET", door.url + path, headers={"Authorization": f"Bearer {BILLING}"})
        seen += [each["webhook_id"] for each in page.body["items"]]
        path = page.body["next"]
    assert sorted(seen) == sorted(made)


async def test_neither_secrets_nor_addresses_of_receivers_are_in_the_log(ask, door):
    made = await ask("PUT", json={"url": f"{URL}/token-in-the-path"})
    text = door.log.read_text()
    assert made.body["secret"] not in text
    assert "token-in-the-path" not in text
