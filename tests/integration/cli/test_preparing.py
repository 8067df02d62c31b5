"""`topics apply` and `db upgrade`: repeatable, harmless side by side, patient with a server that starts late."""

import json
import threading

from confluent_kafka.admin import AdminClient

from infra.cli.checks.postgres import newest_migration
from infra.stack.ports import free_port
from schemas.topics import DEAD_LETTERS, TOPICS
from tests.integration.cli.commands import Command

NAMES = [topic.name for topic in TOPICS]


def done(document):
    return {each["topic"]: each["done"] for each in document["topics"]}


def test_topics_are_made_once_and_then_left_alone(command, own_servers):
    command.run("topics", "apply")
    assert done(command.json("topics", "apply")) == dict.fromkeys(NAMES, "unchanged")
    admin = AdminClient({"bootstrap.servers": own_servers.kafka_bootstrap})
    found = admin.list_topics(timeout=10).topics
    assert {topic.name: len(found[topic.name].partitions) for topic in TOPICS} == {
        topic.name: topic.partitions for topic in TOPICS
    }


def test_what_is_missing_is_added_and_nothing_is_taken_away(command, own_servers):
    command.run("topics", "apply")
    admin = AdminClient({"bootstrap.servers": own_servers.kafka_bootstrap})
    admin.delete_topics([DEAD_LETTERS.name])[DEAD_LETTERS.name].result(10)
    said = command.run("topics", "apply")
    assert f"{DEAD_LETTERS.name}: created" in said
    assert said.count("unchanged") == len(TOPICS) - 1


def test_two_at_once_both_succeed(command, own_servers):
    admin = AdminClient({"bootstrap.servers": own_servers.kafka_bootstrap})
    known = [name for name in admin.list_topics(timeout=10).topics if name in NAMES]
    for future in admin.delete_topics(known).values() if known else ():
        future.result(10)
    running = [command.start("topics", "apply", "--json") for _ in range(2)]
    ends = [each.end() for each in running]
    assert [code for _, _, code in ends] == [0, 0], ends


def test_tables_are_made_once_and_two_at_once_are_harmless(environment, fresh_database):
    fresh = Command(environment | {"RELEVO_POSTGRES_DSN": fresh_database})
    ends = [each.end() for each in [fresh.start("db", "upgrade", "--json") for _ in range(2)]]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert sorted(json.loads(out)["changed"] for out, _, _ in ends) == [False, True]
    after = newest_migration()
    assert fresh.json("db", "upgrade") == {"before": after, "after": after, "changed": False}
    assert "already" in fresh.run("db", "upgrade")


def test_without_its_tables_a_command_says_in_one_sentence_what_to_do(environment, fresh_database):
    fresh = Command(environment | {"RELEVO_POSTGRES_DSN": fresh_database})
    for arguments in (("dlq", "list"), ("dlq", "show", "p0@1")):
        error = fresh.json(*arguments, code=78)["error"]
        assert (error["code"], error["remedy"]) == ("tables", "Run `relevo db upgrade`.")
        assert "dead_letters_handled" in error["detail"]


def test_a_server_that_starts_late_is_waited_for(command, own_servers):
    own_servers.terminate("postgres")
    try:
        with command.start("db", "upgrade", "--json") as running:
            running.wait_for_error_line("Waiting up to 30 s")
            starting = threading.Thread(target=own_servers.start, args=("postgres",))
            starting.start()
            out, err, code = running.end()
            starting.join()
    finally:
        own_servers.start("postgres")
    assert code == 0, err
    assert json.loads(out)["after"] == newest_migration()


def test_a_login_that_is_refused_is_told_at_once(environment, own_servers):
    wrong = own_servers.postgres_dsn.replace("relevo:", "relevo:wrong", 1)
    error = Command(environment | {"RELEVO_POSTGRES_DSN": wrong}).json("db", "upgrade", code=78)["error"]
    assert error["code"] == "configuration"
    assert "refuses" in error["detail"]
    assert "wrong" not in error["detail"]
    missing = own_servers.postgres_dsn.rpartition("/")[0] + "/nowhere"
    error = Command(environment | {"RELEVO_POSTGRES_DSN": missing}).json("db", "upgrade", code=78)["error"]
    assert "nowhere" in error["detail"]


def test_a_name_that_is_no_setting_is_refused(environment):
    error = Command(environment | {"RELEVO_KAFKA": "x"}).json("topics", "apply", code=78)["error"]
    assert "RELEVO_KAFKA" in error["detail"]


def test_a_reader_without_kafka_is_told_so(environment):
    nowhere = Command(environment | {"RELEVO_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}"})
    assert nowhere.json("tail", code=69)["error"]["code"] == "unavailable"
