"""Scale-out on one machine: the same backlog drained by one, two, three senders and pipelines, and more partitions."""

from typing import Any

from confluent_kafka.admin import AdminClient, NewPartitions

from schemas.topics import DEDUPLICATED, REQUESTED, RESULTS
from tests.bench.parts import Parts, Turn
from tests.bench.sides import RelevoSide

# Senders, pipelines, partitions. Never fewer than before: a member of a group that does not come back is waited for.
STEPS = ((1, 1, 6), (2, 1, 6), (2, 2, 6), (3, 2, 6), (3, 3, 6), (3, 3, 18))


def measure(parts: Parts, side: RelevoSide, count: int) -> list[dict[str, Any]]:
    """Return one row for each step."""
    rows = []
    for senders, pipelines, partitions in STEPS:
        _partition(side.ground.servers.kafka_bootstrap, partitions)
        side.staff(senders=senders, pipelines=pipelines)
        turn = parts.drain(side, count)
        rows.append(
            {
                "senders": senders,
                "pipelines": pipelines,
                "partitions": partitions,
                "rate_per_s": turn.figures["rate_per_s"],
                "cpu_us": turn.cpu_us,
                "parts_us": _each(turn),
                "cores": _cores(turn),
                "problems": turn.problems,
            }
        )
    return rows


def _partition(bootstrap: str, partitions: int) -> None:
    client = AdminClient({"bootstrap.servers": bootstrap})
    found = client.list_topics(timeout=10).topics
    wanted = [
        NewPartitions(topic.name, partitions)
        for topic in (REQUESTED, DEDUPLICATED, RESULTS)
        if len(found[topic.name].partitions) < partitions
    ]
    for done in client.create_partitions(wanted).values() if wanted else ():
        done.result(30)


def _each(turn: Turn) -> dict[str, float]:
    assert turn.cost is not None, "a drain has a cost"
    return {name: 1e6 * spent / turn.cost_per for name, spent in turn.cost.cpu_s.items()}


def _cores(turn: Turn) -> dict[str, float]:
    assert turn.cost is not None, "a drain has a cost"
    return {name: spent / turn.cost.seconds for name, spent in turn.cost.cpu_s.items()}


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table for people: what each process of each kind used of one core says what bounds the rate."""
    made = []
    for row in rows:
        cores = ", ".join(f"{name} {each:.0%}" for name, each in row["cores"].items())
        said = "  NOT COUNTED: " + "; ".join(row["problems"]) if row["problems"] else ""
        who = f"{row['senders']} senders, {row['pipelines']} pipelines, {row['partitions']} partitions"
        used = f"{row['cpu_us']:,.0f} us CPU each, {sum(row['cores'].values()):.2f} cores"
        made += [f"{who}: {row['rate_per_s']:,.0f}/s, {used}{said}", f"    of one core: {cores}"]
    return made
