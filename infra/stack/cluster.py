"""The Kafka nodes of one stack: what they are called, where they listen, and how many its data is made for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from infra.stack.home import Home
from infra.stack.ports import LOOPBACK
from schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from infra.stack.kafka_server import KafkaNode

REPLICAS_MAX = 3

BROKERS_MAX = 7


def numbered(kind: str, count: int) -> tuple[str, ...]:
    """Return the names of *count* processes of a kind: the kind itself, or kind-1, kind-2 and so on."""
    return (kind,) if count == 1 else tuple(f"{kind}-{number}" for number in range(1, count + 1))


def kind_of(process: str) -> str:
    """Return what kind of process has this name."""
    return process.partition("-")[0]


def controller_port(name: str) -> str:
    """Return the name of the port on which the node *name* speaks with the others."""
    return f"{name}-controller"


def bootstrap(names: tuple[str, ...], ports: Mapping[str, int]) -> str:
    """Return where clients find the cluster: every broker, because any of them may be down."""
    return ",".join(f"{LOOPBACK}:{ports[name]}" for name in names)


def node(name: str, names: tuple[str, ...], ports: Mapping[str, int]) -> "KafkaNode":
    """Return the node *name* of the cluster *names*."""
    controllers = {number: f"{LOOPBACK}:{ports[controller_port(each)]}" for number, each in enumerate(names, start=1)}
    # The settings of a stack are read where its packages (Java, psutil) are not: in the image, by every command.
    from infra.stack.kafka_server import KafkaNode  # noqa: PLC0415 -- see above

    return KafkaNode(names.index(name) + 1, ports[name], controllers)


def topic_replication(brokers: int) -> int:
    """Return how many brokers keep a copy of each record."""
    return min(REPLICAS_MAX, brokers)


def brokers_of_data(home: Home) -> int | None:
    """Return how many brokers the Kafka data of *home* was written by; None when there is none yet."""
    for properties in home.root.glob("kafka*/server.properties"):
        if (properties.parent / "data").exists():
            lines = properties.read_text(encoding="utf-8").splitlines()
            voters = next((line for line in lines if line.startswith("controller.quorum.voters=")), "")
            return voters.count("@") or None
    return None


def check_brokers(home: Home, brokers: int) -> None:
    """
    Refuse another number of brokers than the data of *home* was written by.

    One broker more or less is another quorum, and a topic does not move to new brokers by itself: half of such a
    cluster would work, and the other half would wait for ever.
    Raises:
        ConfigurationError: says what can be done.
    """
    before = brokers_of_data(home)
    if before is not None and before != brokers:
        folders = " ".join(str(home.folder(name)) for name in numbered("kafka", before))
        raise ConfigurationError(
            f"The Kafka data in {home.root} is that of {_count(before)}, and RELEVO_BROKERS asks for {brokers}; the "
            f"number is settled when the data is made. Go on with RELEVO_BROKERS={before}, or set RELEVO_HOME to "
            f"another folder, or, if what is in the topics may go, `make down` and `rm -r {folders}`."
        )


def _count(brokers: int) -> str:
    return "1 broker" if brokers == 1 else f"{brokers} brokers"
