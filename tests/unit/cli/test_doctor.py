"""The doctor: what each finding means, and that nothing that hangs or breaks takes the rest along."""

import json
import socket
import ssl
import threading
import time

import aiosmtplib
import pytest

from infra.cli import doctor
from infra.cli.__main__ import run_relevo
from infra.cli.checks.finding import Grade, info, ok, problem, warning
from infra.cli.checks.kafka import Found, judge_topics
from infra.cli.checks.postgres import Waiting, judge_outbox, judge_revision, newest_migration
from infra.cli.checks.redis import judge_redis
from infra.cli.checks.relay import judge_failure
from infra.cli.checks.services import judge_door
from infra.cli.output import Exit
from infra.migrate import newest_revision
from infra.settings import Settings
from schemas.topics import DEAD_LETTERS, REQUESTED, RESULTS, TOPICS


@pytest.fixture(autouse=True)
def development(tmp_path, monkeypatch):
    monkeypatch.setenv("RELEVO_HOME", str(tmp_path))
    monkeypatch.setenv("RELEVO_PROFILE", "development")


def checks(**by_name):
    return tuple(by_name.items())


def test_findings_come_in_the_order_of_the_checks_whoever_is_first():
    slow_is_done = threading.Event()

    def slow(_place, report):
        assert slow_is_done.wait(5)
        report(ok("slow", "done"))

    def quick(_place, report):
        report(ok("quick", "done"))
        slow_is_done.set()

    found = list(doctor.examine(checks(slow=slow, quick=quick), within_s=5))
    assert [finding.check for finding in found] == ["slow", "quick"]


def test_a_check_that_hangs_is_given_up_and_hides_nothing():
    never = threading.Event()

    def hanging(_place, report):
        report(ok("first", "fine"))
        never.wait()

    def good(_place, report):
        report(ok("good", "fine"))

    began_s = time.monotonic()
    found = list(doctor.examine(checks(hanging=hanging, good=good), within_s=0.2))
    assert time.monotonic() - began_s < 2
    assert [(finding.check, finding.grade) for finding in found] == [
        ("first", Grade.OK),
        ("hanging", Grade.PROBLEM),
        ("good", Grade.OK),
    ]
    never.set()


def test_a_check_that_breaks_is_a_problem_and_takes_no_other_along():
    def broken(_place, _report):
        raise ZeroDivisionError("oh")

    found = list(doctor.examine(checks(broken=broken, good=lambda _place, report: report(ok("good", ""))), within_s=5))
    assert [finding.grade for finding in found] == [Grade.PROBLEM, Grade.OK]
    assert "ZeroDivisionError" in found[0].detail


def test_settings_that_make_no_sense_are_a_finding_each(monkeypatch):
    monkeypatch.setenv("RELEVO_HTTP_PORT", "many")
    monkeypatch.setenv("RELEVO_LEASE_S", "-1")
    found = list(doctor.examine())
    assert {finding.grade for finding in found} == {Grade.PROBLEM}
    assert sorted(finding.detail.partition(":")[0] for finding in found) == ["RELEVO_HTTP_PORT", "RELEVO_LEASE_S"]


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a", "fine"), info("b", "so so")], Exit.OK),
        ([ok("a", "fine"), warning("b", "not yet bad", "Mend it soon.")], Exit.OK),
        ([ok("a", "fine"), problem("b", "bad", "Mend it.")], Exit.FAILED),
    ],
)
def test_one_problem_is_enough_to_fail(findings, code, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    assert run_relevo(["doctor", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] == (code == Exit.OK)
    assert [(each["check"], each["grade"], each["remedy"]) for each in report["checks"]] == [
        (each.check, each.grade, each.remedy) for each in findings
    ]
    assert run_relevo(["doctor"]) == code
    said = capsys.readouterr().out
    assert all(each.detail in said and each.remedy in said for each in findings)


def found_of(topic, **changes):
    facts = {"partitions": topic.partitions, "replication": 1, "leaderless": 0, "lagging": 0, "config": topic.config()}
    return Found(**(facts | changes))


AS_WANTED = {topic.name: found_of(topic) for topic in TOPICS}


def test_topics_as_the_catalogue_wants_them_are_one_good_finding():
    assert [finding.grade for finding in judge_topics(AS_WANTED, 1, brokers=1)] == [Grade.OK]


@pytest.mark.parametrize(
    ("topic", "found", "said"),
    [
        (DEAD_LETTERS, None, "does not exist"),
        (REQUESTED, {"partitions": 5}, "has 5 partitions, not 6"),
        (REQUESTED, {"partitions": 1}, "has 1 partition, not 6"),
        (RESULTS, {"config": RESULTS.config() | {"retention.ms": "60000"}}, "retention.ms is 60000"),
        (RESULTS, {"config": {}}, "cleanup.policy is None"),
        (RESULTS, {"leaderless": 2}, "nobody leads 2 partitions"),
        (RESULTS, {"lagging": 1}, "not in sync"),
    ],
)
def test_a_topic_that_is_not_as_wanted_is_a_problem_with_a_remedy(topic, found, said):
    topics = {name: each for name, each in AS_WANTED.items() if name != topic.name}
    if found is not None:
        topics[topic.name] = found_of(topic, **found)
    findings = list(judge_topics(topics, 1, brokers=1))
    assert any(said in finding.detail for finding in findings)
    assert all(finding.check == f"topic {topic.name}" for finding in findings)
    assert all(finding.grade is Grade.PROBLEM and finding.remedy for finding in findings)


def test_too_few_replicas_are_a_problem_and_more_partitions_are_not():
    assert [finding.grade for finding in judge_topics(AS_WANTED, 3, brokers=1)] == [Grade.PROBLEM] * len(TOPICS)
    more = AS_WANTED | {REQUESTED.name: found_of(REQUESTED, partitions=12)}
    assert [finding.grade for finding in judge_topics(more, 1, brokers=1)] == [Grade.INFO, Grade.OK]


def warnings(topic, *, replication, in_sync_min, brokers):
    config = topic.config() | {"min.insync.replicas": str(in_sync_min)}
    found = {topic.name: found_of(topic, replication=replication, config=config)}
    return [each for each in judge_topics(found, replication, brokers=brokers) if each.grade is Grade.WARNING]


@pytest.mark.parametrize(
    ("replication", "in_sync_min", "said", "to_do"),
    [
        (1, 1, "has 1 replica", "kafka-reassign-partitions.sh"),
        (1, 2, "has 1 replica", "RELEVO_TOPIC_REPLICATION=3"),
        (2, 1, "min.insync.replicas is 1", "Add a third replica"),
        (3, 1, "min.insync.replicas is 1", "Run `relevo topics apply`"),
    ],
)
def test_a_topic_that_would_not_survive_one_of_several_brokers_is_a_warning(replication, in_sync_min, said, to_do):
    (found,) = warnings(RESULTS, replication=replication, in_sync_min=in_sync_min, brokers=3)
    assert found.check == f"topic {RESULTS.name}"
    assert said in found.detail
    assert to_do in found.remedy


@pytest.mark.parametrize(("replication", "in_sync_min", "brokers"), [(1, 1, 1), (3, 2, 3), (2, 2, 2)])
def test_a_single_broker_and_a_topic_that_survives_one_need_no_warning(replication, in_sync_min, brokers):
    assert warnings(RESULTS, replication=replication, in_sync_min=in_sync_min, brokers=brokers) == []


def test_the_newest_migration_is_the_one_that_alembic_knows():
    assert newest_migration() == newest_revision()


def test_tables_must_be_at_the_newest_revision():
    assert judge_revision("0002", "0002").grade is Grade.OK
    assert judge_revision("0001", "0002").grade is Grade.PROBLEM
    assert "no tables" in judge_revision(None, "0002").detail


def test_a_full_outbox_is_a_problem_and_a_waiting_one_is_not():
    settings = Settings(outbox_rows_max=100, outbox_age_s_max=60)
    none = Waiting(0, 0.0)
    assert judge_outbox([Waiting(99, 59.0), none], settings).grade is Grade.INFO
    assert judge_outbox([Waiting(100, 1.0), none], settings).grade is Grade.PROBLEM
    assert judge_outbox([Waiting(1, 61.0), none], settings).grade is Grade.PROBLEM


REDIS = {
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "role": "master",
    "save": "",
}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, 0),
        ({"maxmemory_policy": "allkeys-lru"}, 1),
        ({"maxmemory": 100, "used_memory": 95}, 1),
        ({"maxmemory": 100, "used_memory": 50}, 0),
        ({"role": "slave"}, 1),
        ({"aof_last_write_status": "err"}, 1),
        ({"aof_enabled": 0}, 1),
        ({"aof_enabled": 0, "save": "60 1", "rdb_last_bgsave_status": "ok"}, 0),
        ({"aof_enabled": 0, "save": "60 1", "rdb_last_bgsave_status": "err"}, 1),
        ({"aof_enabled": 0, "save": None}, 0),
    ],
)
def test_redis_must_forget_nothing(changes, problems):
    findings = list(judge_redis(REDIS | changes))
    assert sum(finding.grade is Grade.PROBLEM for finding in findings) == problems


def wrapped(cause):
    error = aiosmtplib.SMTPConnectError("Error connecting")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (wrapped(ConnectionRefusedError(111, "refused")), "refuses connections"),
        (wrapped(socket.gaierror(-2, "unknown")), "name"),
        (wrapped(ssl.SSLError(1, "WRONG_VERSION_NUMBER")), "no TLS"),
        (wrapped(ssl.SSLCertVerificationError(1, "self-signed")), "not trusted"),
        (aiosmtplib.SMTPConnectTimeoutError("t"), "does not answer within"),
        (TimeoutError(), "does not answer within"),
        (aiosmtplib.SMTPAuthenticationError(535, "5.7.8 no ana@example.org here"), "refuses the login: 535"),
        (aiosmtplib.SMTPConnectResponseError(554, "5.7.1 not you"), "554 5.7.1 not you"),
        (aiosmtplib.SMTPException("no STARTTLS"), "no STARTTLS"),
        (ConnectionResetError(104, "reset"), "cannot be reached"),
    ],
)
def test_a_relay_that_fails_is_told_in_words_and_with_a_remedy(error, said):
    finding = judge_failure("smtp://relay:25", error, "Start it.")
    assert said in finding.detail
    assert "ana@" not in finding.detail
    assert finding.grade is Grade.PROBLEM
    assert finding.remedy


def test_a_door_that_is_not_ready_is_a_problem_and_one_elsewhere_is_not():
    assert judge_door("http://x", (200, {})).grade is Grade.OK
    assert judge_door("http://x", (0, {})).grade is Grade.INFO
    finding = judge_door("http://x", (503, {"postgres": "does not answer"}))
    assert finding.grade is Grade.PROBLEM
    assert "postgres: does not answer" in finding.detail
