"""Waiting for a server that starts after us."""

import pytest

from infra.cli import waiting
from infra.cli.output import CommandError, Exit
from infra.cli.waiting import wait_for_server
from schemas.errors import ConfigurationError, TransientError


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(waiting, "time", made)
    return made


def test_a_server_that_comes_later_is_waited_for(clock, capsys):
    lefts = []

    def act(left_s):
        lefts.append(left_s)
        if len(lefts) < 4:
            raise TransientError("not yet")
        return "done"

    assert wait_for_server("Kafka", "Start it.", act) == "done"
    assert lefts == [30.0, 29.5, 29.0, 28.5]
    assert capsys.readouterr().err.count("Waiting") == 1


def test_a_server_that_does_not_come_is_unavailable(clock):
    def act(_left_s):
        raise TransientError("refused")

    with pytest.raises(CommandError, match="within 30 s: refused") as caught:
        wait_for_server("Kafka", "Start it.", act)
    assert (caught.value.exit_code, caught.value.remedy) == (Exit.UNAVAILABLE, "Start it.")
    assert clock.now == pytest.approx(130.0, abs=1)


def test_what_waiting_does_not_mend_is_not_waited_for(clock):
    def act(_left_s):
        raise ConfigurationError("no such database")

    with pytest.raises(ConfigurationError):
        wait_for_server("PostgreSQL", "", act)
    assert clock.now == 100.0
