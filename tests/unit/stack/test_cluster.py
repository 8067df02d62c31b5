"""Several brokers: their names and addresses, and why their number stays."""

from collections import defaultdict

import pytest

from infra.stack.cluster import brokers_of_data, check_brokers, node, numbered
from infra.stack.home import Home
from infra.stack.plan import Plan
from infra.stack.wanted import Wanted
from schemas.errors import ConfigurationError

PORTS = {f"kafka-{number}": 9000 + number for number in (1, 2, 3)} | {
    f"kafka-{number}-controller": 9100 + number for number in (1, 2, 3)
}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def plan(home, ports=None, **environment):
    wanted = Wanted.from_environment(None, environment)
    wanted.save(home)
    return Plan(home, Wanted.load(home), defaultdict(int, ports or {}))


def write_data(home, count):
    """Leave what a cluster of *count* leaves behind."""
    names = numbered("kafka", count)
    for name in names:
        ports = defaultdict(lambda: 9092)
        (home.folder(name) / "data").mkdir(parents=True)
        text = node(name, names, ports).properties(home.folder(name) / "data")
        (home.folder(name) / "server.properties").write_text(text)


def test_one_broker_keeps_its_plain_name(home):
    found = plan(home)
    assert found.servers == ("kafka", "postgres", "redis", "mailbox")
    assert found.port_names_of(["kafka"]) == ("kafka", "kafka-controller")
    assert "RELEVO_TOPIC_REPLICATION" not in found.environment()


def test_of_three_each_has_its_own_name_ports_and_address(home):
    found = plan(home, PORTS, RELEVO_BROKERS="3")
    assert found.servers_of("kafka") == ("kafka-1", "kafka-2", "kafka-3")
    assert found.port_names_of(["kafka-2"]) == ("kafka-2", "kafka-2-controller")
    assert found.addresses()["kafka_bootstrap"] == "127.0.0.1:9001,127.0.0.1:9002,127.0.0.1:9003"
    assert found.recipe("kafka-3").folder == home.folder("kafka-3")


def test_topics_get_as_many_replicas_as_the_brokers_can_hold(home):
    assert plan(home, RELEVO_BROKERS="3").environment()["RELEVO_TOPIC_REPLICATION"] == "3"
    assert plan(home, RELEVO_BROKERS="5").environment()["RELEVO_TOPIC_REPLICATION"] == "3"
    chosen = plan(home, RELEVO_BROKERS="3", RELEVO_TOPIC_REPLICATION="2")
    assert chosen.environment()["RELEVO_TOPIC_REPLICATION"] == "2"


def test_what_follows_from_the_brokers_is_not_carried_on_without_them(home):
    Wanted.from_environment(None, {"RELEVO_BROKERS": "3"}).save_as_up(home)
    again = Wanted.from_environment(Wanted.load(home), {"RELEVO_BROKERS": ""})
    assert "RELEVO_TOPIC_REPLICATION" not in again.settings


def test_a_kafka_that_is_given_is_no_cluster_of_ours(home):
    found = plan(home, RELEVO_BROKERS="3", RELEVO_KAFKA_BOOTSTRAP="kafka.example.org:9092")
    assert found.servers_of("kafka") == ()
    assert found.addresses()["kafka_bootstrap"] == "kafka.example.org:9092"
    assert "RELEVO_TOPIC_REPLICATION" not in found.environment()


@pytest.mark.parametrize("count", [1, 3])
def test_the_data_tells_how_many_brokers_wrote_it(home, count):
    assert brokers_of_data(home) is None
    write_data(home, count)
    assert brokers_of_data(home) == count
    check_brokers(home, count)


def test_another_number_of_brokers_than_the_data_has_is_refused_with_a_way_out(home):
    write_data(home, 1)
    with pytest.raises(ConfigurationError, match=r"that of 1 broker, and RELEVO_BROKERS asks for 3.*RELEVO_BROKERS=1"):
        Wanted.from_environment(None, {"RELEVO_BROKERS": "3"}).with_brokers_of(home)


def test_without_a_word_about_it_the_brokers_of_the_data_come_up(home):
    write_data(home, 3)
    assert Wanted.from_environment(None, {}).with_brokers_of(home).brokers == 3
