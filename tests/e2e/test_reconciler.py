"""What nobody has in hand is found and put back; what was accepted is accounted for."""

import asyncio
import json
import subprocess
import sys

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from infra.positions import Positions
from schemas.topics import DEDUPLICATED
from tests.processes import ROOT, eventually


def test_records_taken_away_by_hand_are_found_and_put_back(relevo):
    assert relevo.sender.stop() == 0
    before = _ends(relevo)
    ids = [relevo.notify() for _ in range(10)]
    eventually(lambda: sum(_ends(relevo).values()) >= sum(before.values()) + 10)
    # Everything on the way to the sender is gone, as if a broker had lost it.
    admin = AdminClient({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    gone = [TopicPartition(DEDUPLICATED.name, partition, end) for partition, end in _ends(relevo).items()]
    for future in admin.delete_records(gone).values():
        future.result(10)
    relevo.sender.start()
    for each in ids:
        relevo.wait_for(each, "sent", 60)
    counts = relevo.mailbox.counts()
    assert {counts[each] for each in ids} == {1}
    assert relevo.sender.metric('relevo_put_back_total{reason="forgotten"}') >= 10


def test_a_healthy_system_puts_nothing_back(relevo):
    before = relevo.sender.metric('relevo_put_back_total{reason="forgotten"}')
    ids = [relevo.notify() for _ in range(30)]
    for each in ids:
        relevo.wait_for(each, "sent")
    # Two looks of the reconciler.
    looked_until = _ends(relevo)
    eventually(lambda: asyncio.run(_passed(relevo, looked_until)), 20)
    eventually(lambda: relevo.sender.metric("relevo_unaccounted") == 0, 30)
    assert relevo.sender.metric('relevo_put_back_total{reason="forgotten"}') == before


def test_the_account_comes_out_even(relevo):
    relevo.wait_for(relevo.notify(), "sent")
    environment = {name: value for name, value in relevo.environment.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "audit", "--json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["gap"] == 0
    assert found["balanced"] is True


def _ends(relevo):
    return asyncio.run(Positions(relevo.servers.kafka_bootstrap).ends(DEDUPLICATED))


async def _passed(relevo, ends):
    return await Positions(relevo.servers.kafka_bootstrap).passed("relevo.sender", DEDUPLICATED, ends)
