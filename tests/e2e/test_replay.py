"""Replays on the whole path: what failed is sent, what was sent is not, whatever is interrupted."""

import json
import urllib.request
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.integration.cli.commands import Command
from tests.processes import eventually, get_json
from tests.relevo import address

COUNT = 50


@pytest.fixture(scope="module", autouse=True)
def burst_only(relevo):
    """A sender that gives up after its first burst, which takes a second; afterwards the ordinary one is back."""
    assert relevo.sender.stop() == 0
    hasty = relevo.service("sender", RELEVO_RETRY_LADDER_S="none", RELEVO_RETRY_WAIT_S="0.1")
    hasty.start()
    yield
    assert hasty.stop() == 0
    relevo.sender.start()


@pytest.fixture(scope="module")
def failed(relevo, burst_only):
    """Fifty that failed while the relay took nothing."""
    relevo.mailbox.scenario(scenario="451")
    try:
        ids = [relevo.notify(metadata={"test": "replay"}) for _ in range(COUNT)]
        for each in ids:
            relevo.wait_for(each, "failed", 60)
    finally:
        relevo.mailbox.scenario(scenario=None)
    assert not relevo.mailbox.counts().keys() & set(ids)
    return ids


def order(relevo, **body):
    status, answer, _ = relevo.post("/api/replays", body)
    assert status == (200 if body.get("dry_run") else 202), answer
    return answer


def ended(relevo, identity, within_s=60):
    def look():
        found = get_json(f"{relevo.url}/api/replays/{identity}")[1]
        assert found.get("state") in {"done", "cancelled"}, found
        return found

    return eventually(look, within_s)


def replays_of(relevo, ids):
    """Return the original and the end of each replay of *ids*, as the results tell it."""
    return {
        result["id"]: (result["replay_of"], result["status"])
        for result in relevo.results()
        if result["replay_of"] in ids and result["terminal"]
    }


def all_sent(relevo, ids, count):
    """Wait until there are *count* replays of *ids*, all sent, each one mail."""

    def look():
        found = replays_of(relevo, ids)
        assert (len(found), {status for _, status in found.values()}) == (count, {"sent"})
        return found

    found = eventually(look, 60, 0.5)
    counts = relevo.mailbox.counts()
    assert {counts.get(each) for each in found} == {1}
    return found


def test_what_failed_is_sent_once_however_often_it_is_ordered(relevo, failed):
    count = order(relevo, ids=failed, dry_run=True)
    assert (count["replayed"], sum(count["skipped"].values()), count["complete"]) == (COUNT, 0, True)
    assert not replays_of(relevo, failed)
    done = ended(relevo, order(relevo, ids=failed)["id"])
    assert (done["state"], done["replayed"], sum(done["skipped"].values())) == ("done", COUNT, 0)
    made = all_sent(relevo, failed, COUNT)
    assert sorted(original for original, _ in made.values()) == sorted(failed)
    # Its original keeps its own end.
    assert relevo.status(failed[0])["status"] == "failed"
    replay = next(each for each, (original, _) in made.items() if original == failed[0])
    assert relevo.status(replay)["replay_of"] == failed[0]
    assert [event["metadata"] for event in relevo.results(replay)] == [{"test": "replay"}] * 2

    again = ended(relevo, order(relevo, ids=failed)["id"])
    assert (again["replayed"], again["skipped"]["sent"], sum(again["skipped"].values())) == (0, COUNT, COUNT)
    assert len(all_sent(relevo, failed, COUNT)) == COUNT


def test_with_force_and_a_reason_what_was_sent_is_sent_again(relevo):
    identity = relevo.notify()
    relevo.wait_for(identity, "sent")
    status, problem, _ = relevo.post("/api/replays", {"ids": [identity], "force": True})
    assert (status, problem["errors"][0]["pointer"]) == (422, "/reason")
    assert ended(relevo, order(relevo, ids=[identity])["id"])["skipped"]["sent"] == 1
    done = ended(relevo, order(relevo, ids=[identity], force=True, reason="wrong amount")["id"])
    assert (done["replayed"], done["force"], done["reason"]) == (1, True, "wrong amount")
    [(replay, (original, _))] = all_sent(relevo, [identity], 1).items()
    assert original == identity
    # A replay of the replay names the first original.
    ended(relevo, order(relevo, ids=[replay], force=True, reason="once more")["id"])
    assert {each for each, _ in all_sent(relevo, [identity], 2).values()} == {identity}


def test_what_came_by_kafka_is_chosen_by_its_producer_who_alone_may(relevo):
    identity, another_services, begun = str(uuid4()), str(uuid4()), datetime.now(UTC) - timedelta(seconds=1)
    asked = {"to": address("550"), "subject": "s", "body": "b"}
    # Without a key, on loopback, the client is this one.
    relevo.produce({"id": identity, "producer": "local"} | asked)
    relevo.produce({"id": another_services, "producer": "crm"} | asked)
    for each in (identity, another_services):
        relevo.wait_for(each, "bounced")
    chosen = {"from": begun.isoformat(), "status": ["bounced"]}
    assert order(relevo, producer="crm", dry_run=True, **chosen)["replayed"] == 0
    assert order(relevo, ids=[another_services], dry_run=True)["skipped"]["unknown"] == 1
    assert ended(relevo, order(relevo, producer="local", **chosen)["id"])["replayed"] == 1

    def told():
        [(original, status)] = replays_of(relevo, [identity]).values()
        assert (original, status) == (identity, "bounced")
        return True

    eventually(lambda: replays_of(relevo, [identity]) and told(), 20)


def test_an_order_that_is_called_off_in_the_middle_sends_what_it_made_and_no_more(relevo):
    ids = bounced(relevo, 6)
    identity = order(relevo, ids=ids, rate_per_s=1)["id"]
    eventually(lambda: get_json(f"{relevo.url}/api/replays/{identity}")[1]["replayed"] >= 2, 20)
    stopped = _delete(relevo, f"/api/replays/{identity}")
    assert stopped["state"] == "cancelled"
    assert 2 <= stopped["replayed"] < 6
    # Another order goes through meanwhile, so there was time for the first one to go on, had it done so.
    rest = ended(relevo, order(relevo, ids=ids)["id"])
    assert rest["replayed"] + sum(rest["skipped"].values()) == 6
    assert get_json(f"{relevo.url}/api/replays/{identity}")[1] == stopped
    eventually(lambda: len(replays_of(relevo, ids)) >= stopped["replayed"] + rest["replayed"], 30)
    assert len(replays_of(relevo, ids)) == stopped["replayed"] + rest["replayed"]


def test_ingest_may_be_killed_in_the_middle_of_an_order_and_each_is_sent_once(relevo):
    ids = bounced(relevo, 40, to="451x4")
    identity = order(relevo, ids=ids, rate_per_s=10)["id"]
    for least in (10, 20, 30):
        eventually(lambda least=least: _replayed(relevo, identity) >= least, 30, 0.02)
        relevo.ingest.kill()
        relevo.ingest.start()
    done = ended(relevo, identity)
    assert (done["state"], done["replayed"], sum(done["skipped"].values())) == ("done", 40, 0)
    made = all_sent(relevo, ids, 40)
    assert sorted(original for original, _ in made.values()) == sorted(ids)


@pytest.fixture
def live(relevo, tmp_path):
    return Command({"RELEVO_HOME": str(tmp_path), **relevo.environment})


def test_the_command_line_counts_orders_and_follows_to_the_end(relevo, live):
    identity = relevo.notify()
    relevo.wait_for(identity, "sent")
    assert live.json("replay", identity, "--dry-run")["skipped"]["sent"] == 1
    assert live.json("replay", identity, "--force", code=1)["error"]["code"] == "invalid_request"
    said = live.run("replay", identity, "--force", "--reason", "wrong amount")
    assert "1 would be sent again" in said
    assert "is done: 1 on their way" in said
    all_sent(relevo, [identity], 1)
    listed = get_json(f"{relevo.url}/api/replays?limit=1")[1]["items"][0]
    assert (listed["selection"], listed["reason"]) == ({"ids": [identity]}, "wrong amount")
    assert listed["asked_by"]


def test_an_order_goes_on_when_its_command_is_interrupted(relevo, live):
    ids = bounced(relevo, 4, to="451x4")
    with live.start("replay", *ids, "--rate", "1") as running:
        order = eventually(lambda: _running(relevo, ids), 30)
        _, said, code = running.interrupt()
    assert code == 130
    assert f"--follow {order}" in said
    assert live.json("replay", "--follow", order)["replayed"] == 4
    all_sent(relevo, ids, 4)


def _running(relevo, ids):
    """Return the id of the order of *ids* that has begun and is not done."""
    return next(
        (
            each["id"]
            for each in get_json(f"{relevo.url}/api/replays")[1]["items"]
            if each["selection"].get("ids") == ids and each["state"] == "running" and each["replayed"]
        ),
        None,
    )


def bounced(relevo, count, to="550"):
    """Return *count* that came to an end without being sent."""
    ids = [relevo.notify(address(to)) for _ in range(count)]
    for each in ids:
        relevo.wait_for(each, "bounced" if to == "550" else "failed", 30)
    return ids


def _replayed(relevo, identity):
    return get_json(f"{relevo.url}/api/replays/{identity}")[1].get("replayed", 0)


def _delete(relevo, path):
    with urllib.request.urlopen(urllib.request.Request(relevo.url + path, method="DELETE"), timeout=10) as answer:
        return json.loads(answer.read())
