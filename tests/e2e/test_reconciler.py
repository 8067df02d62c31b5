"""What nobody has in hand is found and put back; what was accepted is accounted for."""

import asyncio
import json
import subprocess
import sys
import time
from uuid import uuid4

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.positions import Positions
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, SENDER_GROUP
from tests.processes import ROOT, eventually
from tests.relevo import address

HOUR_S = 3600.0


def test_records_taken_away_by_hand_are_found_and_put_back(relevo):
    assert relevo.sender.stop() == 0
    ids = [relevo.notify() for _ in range(10)]
    eventually(lambda: all("published" in _steps(relevo, each) for each in ids))
    _wait_until_passed(relevo, PIPELINE_GROUP, REQUESTED)
    _delete_all_on_the_way_to_the_sender(relevo)
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
    _wait_until_passed(relevo, SENDER_GROUP, DEDUPLICATED)
    eventually(lambda: relevo.sender.metric("relevo_unaccounted") == 0, 30)
    assert relevo.sender.metric('relevo_put_back_total{reason="forgotten"}') == before


def test_records_taken_away_before_any_sender_saw_their_ids_are_put_back_on_request(relevo):
    assert relevo.sender.stop() == 0
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    lone, first, last = _request(), _request(), _request(html="<p>Hola</p>")
    _produce(relevo, lone, age_s=HOUR_S, headers=[("traceparent", trace.encode())])
    _produce(relevo, [first, _request(to="nobody"), last], age_s=HOUR_S)
    _wait_until_passed(relevo, PIPELINE_GROUP, REQUESTED)
    _delete_all_on_the_way_to_the_sender(relevo)
    relevo.sender.start()
    _wait_until_passed(relevo, SENDER_GROUP, DEDUPLICATED)
    ids = sorted(each["id"] for each in (lone, first, last))
    code, found = _audit(relevo)
    assert (code, sorted(found["ids"]["gap"])) == (1, ids)

    code, found = _audit(relevo, "--put-back")
    assert (code, found["balanced"]) == (0, True), found
    assert found["gap"] == 3
    assert (found["put_back"]["known"], found["put_back"]["ids"]) == (3, {"written": ids, "gone": [], "begun": []})
    for each in ids:
        relevo.wait_for(each, "sent")
    # Again: nothing is missing, so nothing is put back.
    code, found = _audit(relevo, "--put-back")
    assert (code, found["gap"], found["put_back"]["written"]) == (0, 0, 0), found
    counts = relevo.mailbox.counts()
    assert {counts[each] for each in ids} == {1}
    sent = relevo.results(lone["id"])[-1]
    assert sent["trace_id"] == trace.split("-")[1]
    assert sent["source"]["door"] == "kafka"
    # Accepted when its producer said so, and not when it was put back.
    assert sent["duration_ms"] > HOUR_S * 1000


def test_the_account_comes_out_even(relevo):
    relevo.wait_for(relevo.notify(), "sent")
    code, found = _audit(relevo)
    assert code == 0, found
    assert found["gap"] == 0
    assert found["balanced"] is True


def _audit(relevo, *options):
    """Its exit code, and its one document."""
    environment = {name: value for name, value in relevo.environment.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "audit", "--json", *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def _steps(relevo, notification_id):
    return [each["step"] for each in relevo.status(notification_id)["timeline"]]


def _request(**changes):
    return {"id": str(uuid4()), "to": address(), "subject": "Hola", "body": "Hola"} | changes


def _produce(relevo, value, *, age_s, headers=()):
    """Produce one record that its producer dates *age_s* seconds back: the last minute is in no audit."""
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    accepted_ms = int((time.time() - age_s) * 1000)
    producer.produce(REQUESTED.name, json.dumps(value).encode(), timestamp=accepted_ms, headers=list(headers))
    assert producer.flush(15) == 0


def _delete_all_on_the_way_to_the_sender(relevo):
    """As if a broker had lost it."""
    admin = AdminClient({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    gone = [TopicPartition(DEDUPLICATED.name, partition, end) for partition, end in _ends(relevo, DEDUPLICATED).items()]
    for future in admin.delete_records(gone).values():
        future.result(10)


def _wait_until_passed(relevo, group, topic):
    """Wait until *group* has worked through all that *topic* has now."""
    ends = _ends(relevo, topic)
    positions = Positions(relevo.servers.kafka_bootstrap)
    eventually(lambda: asyncio.run(positions.passed(group, topic, ends)), 40)


def _ends(relevo, topic):
    return asyncio.run(Positions(relevo.servers.kafka_bootstrap).ends(topic))
