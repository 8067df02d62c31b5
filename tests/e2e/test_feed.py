"""The feed: what it makes of the results equals a fold of their topic, through copies, any order, and kills."""

import asyncio
import json
from collections import Counter
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import Producer

from infra.positions import Positions
from schemas.topics import FEED_STATISTICS_GROUP, FEED_STATUS_GROUP, RESULTS, STATUS
from tests.processes import eventually, get_json
from tests.relevo import address

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def fed(relevo):
    """Relevo with a feed that has died at its worst moment and in the middle, over results with copies and disorder."""
    sent = [relevo.notify() for _ in range(5)]
    doomed = relevo.service("sender.feed", "feed", RELEVO_FAILPOINT="feed.before_commit:kill:3")
    doomed.start()
    try:
        # Its readers handle a batch each time, and the third one dies before it commits.
        eventually(lambda: sent.append(relevo.notify()) or not doomed.alive, 60, 0.3)
    finally:
        doomed.kill()
    relevo.feed.start()
    sent += [produced(relevo) for _ in range(20)]
    sent.append(relevo.notify("sim+ok@simulator.invalid"))
    relevo.produce(b"no JSON at all")
    refused = relevo.notify(address("550"))
    relevo.feed.kill()
    for identity in sent:
        relevo.wait_for(identity, "sent")
    relevo.wait_for(refused, "bounced")
    repeat_backwards(relevo, {*sent, refused})
    relevo.feed.start()
    yield relevo
    assert relevo.feed.stop() == 0, relevo.feed.tail()


def produced(relevo):
    identity = str(uuid4())
    relevo.produce({"id": identity, "to": address(), "subject": "s", "body": "b", "producer": "billing"})
    return identity


def repeat_backwards(relevo, ids):
    """Write every result of *ids* once more, the last one first, as a sweep might."""
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    for record in reversed(relevo.records(RESULTS.name)):
        if json.loads(record.value())["id"] in ids:
            producer.produce(RESULTS.name, record.value(), record.key(), headers=record.headers())
    assert producer.flush(15) == 0


def results_by_event(relevo):
    """The results on the topic from offset 0, of copies the first."""
    found = {}
    for record in relevo.records(RESULTS.name):
        result = json.loads(record.value())
        found.setdefault(result["event_id"], result)
    return found.values()


def fold(relevo):
    return Counter(
        (result["occurred_at"][:13], result["status"], result["channel"], result["producer"])
        for result in results_by_event(relevo)
        if not result["test"]
    )


def counted(relevo):
    async def ask():
        connection = await asyncpg.connect(relevo.servers.postgres_dsn)
        try:
            return await connection.fetch("SELECT * FROM outcome_counts")
        finally:
            await connection.close()

    return {
        (row["hour"].strftime("%Y-%m-%dT%H"), row["status"], row["channel"], row["producer"] or None): row["count"]
        for row in asyncio.run(ask())
    }


def caught_up(relevo):
    """Wait until the counts stand as the topic does, and return them; a late sweep may move both."""

    def look():
        expected, found = fold(relevo), counted(relevo)
        assert found == expected, (found, expected)
        return expected

    return eventually(look, 60, 0.5)


def test_the_counts_equal_a_fold_of_the_topic_by_event(fed):
    expected = caught_up(fed)
    statuses = {key[1] for key in expected}
    assert {"queued", "sent", "bounced", "rejected"} <= statuses
    records = fed.records(RESULTS.name)
    assert any(result["test"] for result in results_by_event(fed)), "some were the simulator's"
    assert len(records) > len({json.loads(each.value())["event_id"] for each in records}), "there were copies"


def test_a_client_sees_its_own_counts_and_those_of_nobody(fed):
    expected = caught_up(fed)
    assert any(key[3] == "billing" for key in expected)
    status, answer = get_json(f"{fed.url}/api/stats?by=hour,status,channel,producer")
    assert status == 200, answer
    found = {(row["hour"][:13], row["status"], row["channel"], row["producer"]): row["count"] for row in answer["rows"]}
    # The last day, without being asked for another.
    seen = {key: count for key, count in expected.items() if key[0] >= answer["from"][:13]}
    assert found == {key: count for key, count in seen.items() if key[3] in (None, "local", "contact")}


def test_the_status_topic_holds_the_latest_result_of_each_id(fed):
    def look():
        latest = {}
        for result in results_by_event(fed):
            if result["seq"] > latest.get(result["id"], {"seq": 0})["seq"]:
                latest[result["id"]] = result
        found = {each.key().decode(): json.loads(each.value()) for each in fed.records(STATUS.name)}
        assert found.keys() == latest.keys()
        wrong = {each: (found[each], latest[each]) for each in latest if found[each] != latest[each]}
        assert not wrong, wrong
        return True

    eventually(look, 60, 0.5)


def test_what_it_has_handled_does_not_come_again(fed):
    """Every reader's group stands at the end of the topic."""

    def look():
        for group in (FEED_STATUS_GROUP, FEED_STATISTICS_GROUP):
            stands = Positions(fed.servers.kafka_bootstrap).stand_blocking(group, RESULTS)
            assert all(stand.committed == stand.end for stand in stands.values()), stands
        return True

    eventually(look, 30, 0.5)
