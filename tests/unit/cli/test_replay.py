"""`relevo replay` before and beside the order itself: lost answers, interruptions, exit codes."""

import json

import pytest

from infra.cli import replay as command
from infra.cli.__main__ import run_relevo
from infra.cli.output import CommandError, Exit

ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"
COUNT = {"dry_run": True, "replayed": 2, "skipped": {"sent": 1, "unknown": 0}, "complete": True}


def order(state, replayed=0):
    return {"id": ID, "state": state, "replayed": replayed, "skipped": {"sent": 1, "unknown": 0}}


class FakeDoor:
    """Answers orders as it was told to, and remembers what was asked."""

    def __init__(self, *answers, looks=()):
        self.answers, self.looks = list(answers), list(looks)
        self.posted, self.deleted = [], []

    def __call__(self, _url, _key):
        return self

    def post(self, _path, document, *, idempotency_key=None):
        if document.get("dry_run"):
            return COUNT, {}
        self.posted.append((document, idempotency_key))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, {}

    def get(self, _path):
        look = self.looks.pop(0)
        if isinstance(look, BaseException):
            raise look
        return look

    def delete(self, path):
        self.deleted.append(path)
        return order("cancelled", 1)


@pytest.fixture
def door(monkeypatch, tmp_path):
    monkeypatch.setenv("RELEVO_HOME", str(tmp_path))
    monkeypatch.setattr(command, "_LOOK_S", 0)
    monkeypatch.setattr(command, "_PAUSE_S", 0)

    def use(*answers, looks=()):
        made = FakeDoor(*answers, looks=looks)
        monkeypatch.setattr(command, "Door", made)
        return made

    return use


AWAY = CommandError(Exit.UNAVAILABLE, "unavailable", "away")


def test_an_order_whose_answer_is_lost_is_asked_for_again_under_the_same_key(door, capsys):
    made = door(AWAY, AWAY, order("running"), looks=[AWAY, order("running", 1), order("done", 2)])
    assert run_relevo(["replay", ID, "--rate", "5", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["replayed"] == 2
    documents, keys = zip(*made.posted, strict=True)
    assert len(set(keys)) == 1
    assert keys[0]
    assert documents[0] == documents[2]
    assert (documents[0]["ids"], documents[0]["rate_per_s"], documents[0]["force"]) == ([ID], 5, False)
    assert documents[0]["asked_by"]


def test_a_door_that_stays_away_is_said_and_that_the_order_may_have_been_taken(door, capsys):
    door(AWAY, AWAY, AWAY)
    assert run_relevo(["replay", "--status", "failed", "--json"]) == Exit.UNAVAILABLE
    assert "may have been taken" in json.loads(capsys.readouterr().out)["error"]["remedy"]


def test_what_is_refused_is_not_asked_for_again(door):
    made = door(CommandError(Exit.FAILED, "invalid_request", "no"))
    assert run_relevo(["replay", ID]) == Exit.FAILED
    assert len(made.posted) == 1


def test_a_dry_run_orders_nothing(door, capsys):
    made = door()
    assert run_relevo(["replay", ID, "--dry-run"]) == Exit.OK
    assert "2 would be sent again, 1 are passed over (1 sent)" in capsys.readouterr().out
    assert not made.posted


def test_interrupted_where_nobody_can_be_asked_the_order_goes_on(door, capsys):
    made = door(order("running"), looks=[KeyboardInterrupt()])
    assert run_relevo(["replay", ID]) == Exit.INTERRUPTED
    assert f"relevo replay --follow {ID}" in capsys.readouterr().err
    assert not made.deleted


@pytest.mark.parametrize(("answer", "code"), [(True, Exit.FAILED), (False, Exit.INTERRUPTED)], ids=["yes", "no"])
def test_interrupted_at_a_terminal_the_person_decides(door, monkeypatch, answer, code):
    made = door(order("running"), looks=[KeyboardInterrupt()])
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(command.typer, "confirm", lambda *_args, **_options: answer)
    assert run_relevo(["replay", ID]) == code
    assert made.deleted == ([f"/api/replays/{ID}"] if answer else [])


def test_an_order_is_followed_to_its_end_and_one_called_off_is_no_success(door):
    door(looks=[order("running"), order("running", 1), order("cancelled", 1)])
    assert run_relevo(["replay", "--follow", ID]) == Exit.FAILED


def test_an_order_can_be_called_off_later(door):
    made = door()
    assert run_relevo(["replay", "--cancel", ID]) == Exit.OK
    assert made.deleted == [f"/api/replays/{ID}"]


def test_calling_off_stands_alone(door):
    door()
    assert run_relevo(["replay", ID, "--cancel", ID]) == Exit.USAGE
