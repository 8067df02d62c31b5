"""Sending and reading back, on the whole path: send, tail and the analytics example."""

import json
import signal
from uuid import uuid4

import pytest

from schemas.identity import new_id
from tests.integration.cli.commands import Command
from tests.relevo import address


def mail(to: str, *more: str) -> list[str]:
    return ["send", "--to", to, "--subject", "Alerta", "--body", "Se ha detectado.", *more]


@pytest.mark.parametrize("door", ["http", "kafka"])
def test_a_notification_is_sent_by_either_door_and_its_end_is_told(live, relevo, door):
    to, identity = address(), str(new_id())
    found = live.json(*mail(to, "--by", door, "--id", identity, "--metadata", "order=42", "--wait"))
    assert (found["id"], found["door"], found["status"], found["terminal"]) == (identity, door, "sent", True)
    assert found["reason"]["code"] == "smtp_250"
    assert len(relevo.mailbox.messages(to=to)) == 1
    assert relevo.results(identity)[-1]["metadata"] == {"order": "42"}
    # The same once more is one mail, and the same end.
    assert live.json(*mail(to, "--by", door, "--id", identity, "--metadata", "order=42", "--wait"))["status"] == "sent"
    assert len(relevo.mailbox.messages(to=to)) == 1


@pytest.mark.parametrize("door", ["http", "kafka"])
def test_what_is_not_sent_is_exit_code_1(live, door):
    said = live.run(*mail(address("550"), "--by", door, "--wait"), code=1)
    assert "bounced" in said
    assert "smtp_550" in said


def test_other_content_under_the_same_id_is_refused_by_either_door(live):
    identity = str(new_id())
    live.run(*mail(address(), "--id", identity, "--wait"))
    refused = live.json(*mail(address(), "--id", identity), code=1)
    assert refused["error"]["code"] == "idempotency_conflict"
    rejected = live.json(*mail(address(), "--id", identity, "--by", "kafka", "--wait"), code=1)
    assert (rejected["status"], rejected["reason"]["code"]) == ("rejected", "idempotency_conflict")


def test_without_wait_it_is_accepted_and_its_id_told(live, relevo):
    found = live.json(*mail(address()))
    assert found["status"] == "queued"
    relevo.wait_for(found["id"], "sent")


def test_wrong_fields_are_named_and_no_key_is_asked_for_on_loopback(live):
    error = live.json("send", "--to", "nobody", "--subject", " ", "--body", "x", code=1)["error"]
    assert error["code"] == "invalid_request"
    assert "/to" in error["detail"]
    assert "/subject" in error["detail"]


def test_a_wrong_key_is_a_matter_of_configuration(live):
    assert live.json(*mail(address(), "--key", "x" * 30), code=78)["error"]["code"] == "unauthorized"


def test_tail_follows_from_now_on_and_ctrl_c_is_a_good_end(live, relevo):
    with live.start("tail", "--json") as tail:
        tail.wait_for_error_line("Following")
        identity = relevo.notify()
        found = []
        while not found or not (found[-1]["id"] == identity and found[-1]["terminal"]):
            found.append(json.loads(tail.line()))
        _, err, code = tail.interrupt()
    assert code == 0
    assert "Traceback" not in err
    ours = [each for each in found if each["id"] == identity]
    assert [each["seq"] for each in ours] == sorted({each["seq"] for each in ours})
    assert ours[-1]["status"] == "sent"


def test_tail_from_the_start_finds_one_id_and_ends_after_n(live, relevo):
    identity = relevo.notify()
    relevo.wait_for(identity, "sent")
    said = live.run("tail", "--from-start", "--id", identity, "--status", "sent", "-n", "1")
    assert said.count("\n") == 1
    assert identity in said
    assert "smtp_250" in said


def test_tail_shows_dead_letters_byte_for_byte(live, relevo):
    key = uuid4().hex
    partition, offset = relevo.produce(b"\xff not JSON", key=key.encode())
    # The dead letter keeps the key of its record, by which it is found here.
    with live.start("tail", "--topic", "dlq", "--from-start", "--json") as tail:
        while (found := json.loads(tail.line()))["key"] != key:
            pass
        assert tail.interrupt(signal.SIGTERM)[2] == 0
    assert found["value_base64"] == "/yBub3QgSlNPTg=="
    assert found["headers"]["dlq-original-partition"] == str(partition)
    assert found["headers"]["dlq-original-offset"] == str(offset)


def test_analytics_rebuilds_every_state_and_counts_rejections_apart(live, relevo):
    relevo.wait_for(relevo.notify(), "sent")
    relevo.wait_for(relevo.notify(address("550")), "bounced")
    place = relevo.produce({"id": str(new_id()), "to": "nobody", "subject": "s", "body": "b"})
    while not relevo.rejections_at(*place):
        pass
    counted = Command(live.environment, "infra.examples.analytics").json()
    results = relevo.results()
    latest = {each["id"]: each["status"] for each in results if each["seq"] > 0}
    assert counted["notifications"] == len(latest)
    assert counted["rejected"] == sum(each["seq"] == 0 for each in results)
    totals: dict[str, int] = {}
    for hour in counted["hours"]:
        for status, count in hour["counts"].items():
            totals[status] = totals.get(status, 0) + count
    expected = {status: list(latest.values()).count(status) for status in set(latest.values())}
    assert totals == expected | {"rejected": counted["rejected"]}


def test_analytics_goes_on_when_it_is_told_to(live, relevo):
    with Command(live.environment, "infra.examples.analytics").start("--follow", "--json") as running:
        before = json.loads(running.line())["notifications"]
        relevo.notify()
        while json.loads(running.line())["notifications"] <= before:
            pass
        _, err, code = running.interrupt()
    assert code == 0
    assert "Traceback" not in err
