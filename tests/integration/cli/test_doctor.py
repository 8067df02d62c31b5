"""The doctor finds what is wrong, says what to do, and is quick whatever hangs."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack.identity import Identity
from infra.stack.ports import free_port
from infra.stack.state import identity_fields
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, PIPELINE_GROUP, REQUESTED, RESULTS, SENDER_GROUP, TOPICS
from tests.integration.cli.commands import Command, timed
from tests.processes import eventually

DOCTOR_S_MAX = 8.0


@pytest.fixture(scope="module")
def tables(own_servers):
    asyncio.run(upgrade(own_servers.postgres_dsn))


@pytest.fixture
def prepared(command, own_servers, tables):
    apply_topics(own_servers.kafka_bootstrap, replication=1)
    return command


@pytest.fixture
def admin(own_servers):
    return AdminClient({"bootstrap.servers": own_servers.kafka_bootstrap})


def problems(command):
    """Return what is wrong, by what was looked at: detail and remedy."""
    report = command.json("doctor", code=1)
    assert not report["ok"]
    return {
        each["check"]: f"{each['detail']} {each['remedy']}" for each in report["checks"] if each["grade"] == "problem"
    }


def test_nothing_wrong_is_exit_code_0(prepared):
    report = prepared.json("doctor")
    assert report["ok"]
    looked_at = {each["check"] for each in report["checks"]}
    assert {"settings", "postgres", "tables", "outbox", "redis", "redis memory", "redis persistence"} <= looked_at
    assert {"kafka", "kafka topics", f"group {PIPELINE_GROUP}", f"group {SENDER_GROUP}", "relay"} <= looked_at
    assert "No problems." in prepared.run("doctor")


def test_lag_is_asked_for_as_a_consumer_and_never_as_an_administrator(prepared, own_servers, monkeypatch):
    def aborts(*_args, **_options):
        raise AssertionError("librdkafka may end the process here: #3663, #4605")

    for name in ("list_offsets", "list_consumer_group_offsets", "describe_consumer_groups"):
        monkeypatch.setattr(AdminClient, name, aborts)
    producer = Producer({"bootstrap.servers": own_servers.kafka_bootstrap})
    for _ in range(5):
        producer.produce(REQUESTED.name, b"{}", partition=0)
    assert producer.flush(15) == 0
    consumer = Consumer({"bootstrap.servers": own_servers.kafka_bootstrap, "group.id": PIPELINE_GROUP})
    end = consumer.get_watermark_offsets(TopicPartition(REQUESTED.name, 0), timeout=10)[1]
    consumer.commit(offsets=[TopicPartition(REQUESTED.name, 0, end - 2)], asynchronous=False)
    consumer.close()

    said = {each["check"]: each["detail"] for each in prepared.json("doctor")["checks"]}
    assert said[f"group {PIPELINE_GROUP}"] == f"2 records behind on {REQUESTED.name}, 0 members"
    assert said[f"group {SENDER_GROUP}"] == f"0 records behind on {DEDUPLICATED.name}, 0 members"


@pytest.mark.parametrize(("name", "check"), [("redis", "redis"), ("postgres", "postgres"), ("kafka", "kafka")])
def test_a_stopped_server_is_found(prepared, own_servers, name, check):
    own_servers.kill(name)
    try:
        found, took_s = timed(lambda: problems(prepared))
    finally:
        own_servers.start(name)
    assert found.keys() == {check}
    assert "Start it" in found[check]
    assert took_s < DOCTOR_S_MAX


def test_servers_that_hang_are_found_within_a_few_seconds(prepared, own_servers):
    for name in ("redis", "postgres", "kafka"):
        own_servers.pause(name)
    try:
        found, took_s = timed(lambda: problems(prepared))
    finally:
        for name in ("redis", "postgres", "kafka"):
            own_servers.resume(name)
    assert found.keys() == {"redis", "postgres", "kafka"}
    assert took_s < DOCTOR_S_MAX
    eventually(lambda: prepared.start("doctor").end()[2] == 0, within_s=30)


def test_a_missing_topic_is_found_and_mended(prepared, admin):
    admin.delete_topics([DEAD_LETTERS.name])[DEAD_LETTERS.name].result(10)
    assert problems(prepared) == {f"topic {DEAD_LETTERS.name}": "does not exist Run `relevo topics apply`."}
    prepared.run("topics", "apply")
    assert prepared.json("doctor")["ok"]


def test_too_few_partitions_are_found_and_mended(prepared, admin):
    admin.delete_topics([RESULTS.name])[RESULTS.name].result(10)
    eventually(lambda: RESULTS.name not in admin.list_topics(timeout=5).topics)
    admin.create_topics([NewTopic(RESULTS.name, 2, 1, config=RESULTS.config())])[RESULTS.name].result(10)
    eventually(lambda: RESULTS.name in admin.list_topics(timeout=5).topics)
    assert "has 2 partitions, not 6" in problems(prepared)[f"topic {RESULTS.name}"]
    assert f"{RESULTS.name}: partitions added" in prepared.run("topics", "apply")
    assert prepared.json("doctor")["ok"]


def test_a_wrong_setting_of_a_topic_is_found_and_mended(prepared, admin):
    entry = ConfigEntry("retention.ms", "60000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, RESULTS.name, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    found = eventually(lambda: problems(prepared).get(f"topic {RESULTS.name}"))
    assert "retention.ms is 60000" in found
    prepared.run("topics", "apply")
    assert prepared.json("doctor")["ok"]


def test_too_few_replicas_are_found(prepared, environment):
    found = problems(Command(environment | {"RELEVO_TOPIC_REPLICATION": "3"}))
    assert found.keys() == {f"topic {topic.name}" for topic in TOPICS}


def test_missing_tables_are_found(prepared, environment, fresh_database):
    found = problems(Command(environment | {"RELEVO_POSTGRES_DSN": fresh_database}))
    assert found == {"tables": "the database has no tables yet Run `relevo db upgrade`."}


def test_a_relay_where_nobody_listens_is_found(prepared, environment):
    found = problems(Command(environment | {"RELEVO_SMTP_URL": f"smtp://127.0.0.1:{free_port()}"}))
    assert found.keys() == {"relay"}
    assert "refuses connections" in found["relay"]


def test_a_relay_without_the_encryption_that_is_demanded_is_found(prepared, environment, mailbox):
    found = problems(Command(environment | {"RELEVO_SMTP_URL": f"{mailbox.smtp_url}?starttls=required"}))
    assert found.keys() == {"relay"}
    found = problems(Command(environment | {"RELEVO_SMTP_URL": mailbox.smtp_url.replace("smtp:", "smtps:")}))
    assert found.keys() == {"relay"}


def test_a_redis_that_forgets_is_found(prepared, own_servers):
    port = own_servers.redis_url.rpartition(":")[2].partition("/")[0]

    def set_policy(policy):
        import redis

        with redis.Redis(port=int(port)) as client:
            client.config_set("maxmemory-policy", policy)

    set_policy("allkeys-lru")
    try:
        assert problems(prepared).keys() == {"redis memory"}
    finally:
        set_policy("noeviction")


def test_what_production_needs_is_named(prepared, environment):
    found = Command(environment | {"RELEVO_PROFILE": "production"}).json("doctor", code=1)
    said = " ".join(each["detail"] for each in found["checks"] if each["grade"] == "problem")
    for name in ("RELEVO_API_KEYS", "RELEVO_CONTACT_RECIPIENTS", "RELEVO_MAIL_FROM"):
        assert name in said


def test_processes_of_the_local_stack_that_ended_or_are_held_are_found(prepared, environment, tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        held = identity_fields(Identity.of(sleeper.pid))
        entries = {
            "sender": {**held, "state": "running", "log": "/logs/sender.log"},
            "pipeline": {"pid": None, "state": "stopped", "note": "ended by signal 9", "log": "/logs/pipeline.log"},
        }
        (tmp_path / "stack.json").write_text(json.dumps({"processes": entries}))
        os.kill(sleeper.pid, signal.SIGSTOP)
        found = problems(prepared)
        assert f"kill -CONT {sleeper.pid}" in found["process sender"]
        assert "/logs/pipeline.log" in found["process pipeline"]
        os.kill(sleeper.pid, signal.SIGCONT)
        assert "/logs/sender.log" in problems(prepared)["process sender"]
    finally:
        sleeper.kill()
        sleeper.wait(10)
