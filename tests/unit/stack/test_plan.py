"""What a stack consists of."""

import pytest

from infra.stack.home import Home
from infra.stack.plan import Plan
from infra.stack.wanted import Wanted

PORTS = dict.fromkeys(("kafka", "kafka-controller", "postgres", "redis", "smtp", "mailbox", "http"), 1)
SERVICES = {
    "ingest": "ingest",
    "pipeline": "pipeline",
    "sender-1": "sender",
    "sender-2": "sender",
    "feed": "sender.feed",
}


@pytest.fixture
def plan(tmp_path):
    wanted = Wanted.from_environment(None, {"RELEVO_SENDERS": "2"})
    return Plan(Home(tmp_path), wanted, PORTS | dict.fromkeys(SERVICES, 2))


def test_the_door_comes_first_and_of_the_feed_there_is_one(plan):
    assert plan.services == tuple(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_is_a_module_of_its_own_under_its_own_name(plan, name):
    recipe = plan.recipe(name)
    assert recipe.argv[1:] == ("-m", SERVICES[name])
    assert recipe.environment["RELEVO_INSTANCE"] == name
