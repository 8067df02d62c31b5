"""Sending: what is refused before anything is sent, and how the end is found."""

import json
from uuid import UUID

import pytest

from infra.cli import outcome
from infra.cli.__main__ import run_relevo
from infra.cli.door import Door, problem
from infra.cli.outcome import Coordinates, watch_door, watch_results
from infra.cli.output import CommandError, Exit
from infra.cli.reading import Read
from infra.stack.ports import free_port
from schemas.errors import ConfigurationError
from schemas.topics import RESULTS

ID = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e")
RECORD = Coordinates(2, 40)
EARLIER = Coordinates(1, 7)


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RELEVO_HOME", str(tmp_path))


def result(seq, status, *, terminal=False, at=RECORD, id_=ID, **more):
    value = {
        "id": str(id_),
        "seq": seq,
        "status": status,
        "terminal": terminal,
        "attempt": 1,
        "reason": {"code": "smtp_250", "smtp": "250 OK"},
        "occurred_at": "2026-01-02T03:04:05.678Z",
        "source": {"partition": at.partition, "offset": at.offset},
    }
    return Read(RESULTS.name, 0, 0, None, None, json.dumps(value | more).encode(), ())


class Reader:
    """Gives out what it was made with, a batch at a time, then nothing."""

    def __init__(self, *batches):
        self.batches = list(batches)

    def read(self):
        return self.batches.pop(0) if self.batches else []


def statuses(steps):
    return [(step.status, step.last) for step in steps]


def test_the_end_is_the_terminal_result_whatever_comes_twice_or_from_others():
    other = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5f")
    reader = Reader(
        [result(1, "queued"), result(1, "queued"), result(9, "failed", terminal=True, id_=other)],
        [],
        [result(2, "retrying"), result(1, "queued")],
        [result(3, "sent", terminal=True)],
    )
    found = watch_results(reader, ID, RECORD, within_s=10)
    assert statuses(found) == [("queued", False), ("retrying", False), ("sent", True)]


def test_a_rejection_of_our_record_is_the_end_and_of_an_earlier_one_is_not():
    rejected = {"errors": [{"pointer": "/to", "code": "required", "detail": "is required"}], "reason": None}
    reader = Reader([result(0, "rejected", at=EARLIER, **rejected), result(0, "rejected", **rejected)])
    (step,) = watch_results(reader, ID, RECORD, within_s=10)
    assert (step.status, step.last, step.smtp) == ("rejected", True, "/to is required")


def test_an_id_that_was_sent_before_is_sent_unless_this_record_is_rejected(monkeypatch):
    monkeypatch.setattr(outcome, "_REJECTION_S_MAX", 0.2)
    sent = result(2, "sent", terminal=True, at=EARLIER)
    assert statuses(watch_results(Reader([sent]), ID, RECORD, within_s=10)) == [("sent", True)]
    conflict = result(0, "rejected", errors=[])
    assert statuses(watch_results(Reader([sent], [conflict]), ID, RECORD, within_s=10)) == [("rejected", True)]


def test_no_end_in_time_is_an_error_that_says_how_to_go_on():
    with pytest.raises(CommandError) as caught:
        list(watch_results(Reader([result(1, "queued")]), ID, RECORD, within_s=0.05))
    assert caught.value.exit_code is Exit.FAILED
    assert str(ID) in caught.value.remedy


class FakeDoor:
    def __init__(self, *answers):
        self.answers = list(answers)

    def get(self, _path):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def status_document(status, *steps, terminal=False):
    return {
        "status": status,
        "terminal": terminal,
        "timeline": [{"at": f"2026-01-02T03:04:0{second}.000Z", "step": step} for second, step in steps],
    }


def test_each_step_at_the_door_is_told_once_and_the_end_last():
    door = FakeDoor(
        status_document("queued", (1, "accepted")),
        CommandError(Exit.UNAVAILABLE, "unavailable", "away"),
        # `published` was written down late, and stands between the others.
        status_document("sent", (1, "accepted"), (2, "published"), (3, "sent"), terminal=True),
    )
    assert statuses(watch_door(door, ID, within_s=10)) == [("accepted", False), ("published", False), ("sent", True)]


def test_a_step_after_the_end_does_not_hide_it():
    door = FakeDoor(status_document("bounced", (1, "accepted"), (2, "bounced"), (3, "published"), terminal=True))
    assert statuses(watch_door(door, ID, within_s=10))[-1] == ("bounced", True)


def test_a_door_that_does_not_know_it_is_an_error():
    door = FakeDoor(CommandError(Exit.FAILED, "not_found", "There is nothing here"))
    with pytest.raises(CommandError, match="nothing here"):
        list(watch_door(door, ID, within_s=10))


@pytest.mark.parametrize(
    ("status", "document", "exit_code", "code"),
    [
        (401, {"code": "unauthorized"}, Exit.CONFIGURATION, "unauthorized"),
        (
            409,
            {"code": "idempotency_conflict", "title": "Conflict", "detail": "d"},
            Exit.FAILED,
            "idempotency_conflict",
        ),
        (503, {"code": "unavailable"}, Exit.UNAVAILABLE, "unavailable"),
        (502, {}, Exit.FAILED, "http_502"),
    ],
)
def test_a_problem_of_the_door_becomes_an_exit_code(status, document, exit_code, code):
    found = problem(status, document)
    assert (found.exit_code, found.code) == (exit_code, code)


def test_every_wrong_field_is_named():
    errors = [{"pointer": "/to", "detail": "is required"}, {"pointer": "/subject", "detail": "must not be blank"}]
    found = problem(422, {"code": "invalid_request", "title": "Invalid request", "errors": errors})
    assert found.detail == "Invalid request: /to is required; /subject must not be blank"


@pytest.mark.parametrize("url", ["", "localhost:8002", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigurationError):
        Door(url, None)


MAIL = ["send", "--to", "a@example.org", "--subject", "s", "--body", "b", "--json"]


def test_metadata_needs_a_name_and_a_value(capsys):
    assert run_relevo([*MAIL, "--metadata", "order"]) == Exit.USAGE
    assert "NAME=VALUE" in json.loads(capsys.readouterr().out)["error"]["detail"]


def test_what_relevo_would_reject_is_not_produced(capsys):
    wrong = ["send", "--to", "nobody", "--subject", "", "--body", "b", "--by", "kafka", "--json"]
    assert run_relevo(wrong) == Exit.FAILED
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "invalid_request"
    assert "/to" in error["detail"]
    assert "/subject" in error["detail"]


@pytest.mark.parametrize("command", [["tail", "--status", "sent", "--topic", "dlq"], ["tail", "-n", "0"], ["send"]])
def test_nonsense_in_the_arguments_is_a_usage_error(command, capsys):
    assert run_relevo([*command, "--json"]) == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_a_door_where_nobody_listens_is_unavailable_and_the_id_is_told(capsys):
    assert run_relevo([*MAIL, "--url", f"http://127.0.0.1:{free_port()}"]) == Exit.UNAVAILABLE
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "unavailable"
    assert "--id" in error["remedy"]
