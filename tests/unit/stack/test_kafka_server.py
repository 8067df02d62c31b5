"""One node, or three: what each of them is told."""

from infra.stack.kafka_server import KafkaNode

ONE = {1: "127.0.0.1:9093"}
THREE = {1: "127.0.0.1:9093", 2: "127.0.0.1:9193", 3: "127.0.0.1:9293"}


def read(node, tmp_path):
    return dict(line.split("=", 1) for line in node.properties(tmp_path).splitlines())


def test_a_single_node_keeps_one_copy(tmp_path):
    found = read(KafkaNode(1, 9092, ONE), tmp_path)
    assert found["default.replication.factor"] == found["offsets.topic.replication.factor"] == "1"
    assert found["min.insync.replicas"] == "1"
    assert found["controller.quorum.voters"] == "1@127.0.0.1:9093"


def test_three_nodes_know_each_other_and_keep_three_copies(tmp_path):
    found = read(KafkaNode(2, 9192, THREE), tmp_path)
    assert found["controller.quorum.voters"] == "1@127.0.0.1:9093,2@127.0.0.1:9193,3@127.0.0.1:9293"
    assert found["listeners"] == "CLIENT://127.0.0.1:9192,CONTROLLER://127.0.0.1:9193"
    for topics in ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        assert found[f"{topics}.replication.factor"] == "3"
    assert found["min.insync.replicas"] == found["transaction.state.log.min.isr"] == "2"


def test_one_of_several_asks_nobody_before_it_ends(tmp_path):
    # The last of three that end together would wait for a quorum that is gone.
    assert read(KafkaNode(2, 9192, THREE), tmp_path)["controlled.shutdown.enable"] == "false"
    assert read(KafkaNode(1, 9092, ONE), tmp_path)["controlled.shutdown.enable"] == "true"


def test_no_topic_comes_into_being_by_itself(tmp_path):
    assert read(KafkaNode(1, 9092, ONE), tmp_path)["auto.create.topics.enable"] == "false"
