"""`relevo webhooks`: one webhook from its first day to its last."""

import pytest

from infra.cli.output import Exit


@pytest.fixture
def hooked(live):
    live.run("webhooks", "set", "http://localhost:9999/hook", "--status", "sent", "--status", "bounced")
    yield live
    live.run("webhooks", "remove")


def test_a_webhook_is_set_and_its_secret_told_once(live):
    try:
        made = live.json("webhooks", "set", "http://localhost:9999/hook")
        assert made["secret"].startswith("whsec_")
        assert "secret" not in live.json("webhooks", "set", "http://localhost:9999/other")
        assert live.json("webhooks", "show")["url"] == "http://localhost:9999/other"
        assert live.json("webhooks", "rotate")["secret"] != made["secret"]
    finally:
        assert live.json("webhooks", "remove") == {"removed": True}


def test_it_is_told_for_people_too(hooked):
    shown = hooked.run("webhooks", "show")
    assert "url: http://localhost:9999/hook" in shown
    assert "statuses: sent, bounced" in shown


def test_a_test_event_stands_in_the_deliveries(hooked):
    identity = hooked.json("webhooks", "test")["webhook_id"]
    assert [each["webhook_id"] for each in hooked.json("webhooks", "deliveries")["items"]] == [identity]
    assert identity in hooked.run("webhooks", "deliveries", "--state", "pending")
    assert hooked.json("webhooks", "deliveries", "--state", "failed")["items"] == []


def test_a_window_is_resent_to_its_end(hooked):
    window = ("--from", "2026-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
    assert hooked.json("webhooks", "resend", *window, "--failed") == {"deliveries": 0}


def test_what_is_wrong_is_told_by_its_field(live):
    refused = live.json("webhooks", "set", "ftp://example.org", code=Exit.FAILED)
    assert "/url" in refused["error"]["detail"]
    assert live.json("webhooks", "resend", code=Exit.FAILED)["error"]["code"] == "not_found"
    assert live.json("webhooks", "show", code=Exit.FAILED)["error"]["code"] == "not_found"
