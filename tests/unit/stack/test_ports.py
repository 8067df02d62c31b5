"""Which port a server gets."""

import pytest

from infra.stack import ports


@pytest.fixture
def machine(monkeypatch):
    """A machine of which the test says which ports are in use; the free ones that it offers begin at 50000."""
    used: set[int] = set()
    offers = iter(range(50000, 50100))
    monkeypatch.setattr(ports, "is_free", lambda port: port not in used)
    monkeypatch.setattr(ports, "free_port", lambda: next(offers))
    return used


def test_the_usual_port_is_taken_when_it_is_free(machine):
    assert ports.choose("kafka", before=None, taken=set()) == 9092


def test_the_port_of_the_last_run_comes_first(machine):
    assert ports.choose("kafka", before=41000, taken=set()) == 41000


def test_a_port_that_a_stranger_has_is_left_to_him(machine):
    machine.update({9092, 41000})
    assert ports.choose("kafka", before=41000, taken=set()) == 50000


def test_two_servers_of_one_stack_never_get_the_same_port(machine):
    machine.add(9092)
    assert ports.choose("kafka", before=None, taken={50000, 50001}) == 50002


def test_a_server_without_a_usual_port_gets_a_free_one(machine):
    assert ports.choose("sender-1", before=None, taken=set()) == 50000
