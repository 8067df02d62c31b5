"""`relevo dlq` on the whole path: what is dead is seen, put back byte for byte, or given up."""

import json
from uuid import uuid4

import pytest

from schemas.topics import REQUESTED
from tests.integration.cli.commands import Command
from tests.processes import eventually
from tests.relevo import address, read_topic


@pytest.fixture
def live(relevo, tmp_path):
    return Command({"RELEVO_HOME": str(tmp_path), **relevo.environment})


def dead(relevo, live, value, *, key=None, headers=None):
    """Produce what cannot be read; the dead letter that it becomes, as `list` tells it."""
    partition, offset = relevo.produce(value, key=key, headers=headers)

    def look():
        return [letter for letter in listed(live) if _stood_at(letter, partition, offset)]

    return eventually(look, 20, 0.3)[0]


def _stood_at(letter, partition, offset):
    return letter["original"] == {"topic": REQUESTED.name, "partition": partition, "offset": offset}


def listed(live, *filters):
    return live.json("dlq", "list", *filters)["dead_letters"]


def place(letter):
    return f"p{letter['partition']}@{letter['offset']}"


def test_a_dead_letter_is_shown_without_its_content_unless_asked_for(relevo, live):
    to = address()
    letter = dead(relevo, live, {"id": "7", "to": to, "subject": "secreto", "body": 3}, key=b"k")
    assert (letter["reason"], letter["attempts"], letter["handled"]) == ("invalid_request", 1, None)
    assert "/id" in letter["message"]
    for said in (live.run("dlq", "list"), live.run("dlq", "show", place(letter)), json.dumps(letter)):
        assert place(letter) in said or said == json.dumps(letter)
        assert to not in said
        assert "secreto" not in said
    [shown] = live.json("dlq", "show", place(letter), "--value")["dead_letters"]
    assert (shown["record"]["value"]["to"], shown["record"]["key"]) == (to, "k")
    assert live.json("dlq", "show", "p0@999999999", code=1)["error"]["code"] == "not_found"


def test_what_is_put_back_is_byte_for_byte_what_it_was_and_its_good_neighbours_are_sent_once(relevo, live):
    good, to = str(uuid4()), address()
    value = json.dumps([{"id": good, "to": to, "subject": "s", "body": "b"}, {"id": "7"}]).encode()
    letter = dead(relevo, live, value, key=b"\xff\x00", headers=[("x", b"\x01"), ("x", b"2"), ("dlq-reason", b"own")])
    relevo.wait_for(good, "sent")
    done = live.json("dlq", "replay", place(letter), "--yes")
    assert done == {"handled": [place(letter)], "left": 0}

    def copies():
        found = [
            record for record in read_topic(relevo.servers.kafka_bootstrap, REQUESTED.name) if record.value() == value
        ]
        return len(found) == 2 and found

    first, back = sorted(eventually(copies, 20, 0.3), key=lambda record: len(record.headers()))
    assert (back.key(), back.headers()) == (first.key(), [*first.headers(), ("dlq-attempts", b"1")])
    # It is as bad as before: a new dead letter, with one attempt more; the old one is no longer offered.
    again = eventually(
        lambda: [each for each in listed(live) if _stood_at(each, back.partition(), back.offset())], 20, 0.3
    )[0]
    assert again["attempts"] == 2
    assert place(letter) not in {place(each) for each in listed(live)}
    [handled] = [each for each in listed(live, "--handled") if place(each) == place(letter)]
    assert handled["handled"]["action"] == "replayed"
    assert handled["handled"]["by"]
    assert live.json("dlq", "replay", place(letter), "--yes", code=1)["error"]["code"] == "not_found"
    assert len(relevo.mailbox.messages(to=to)) == 1
    live.run("dlq", "discard", place(again), "--reason", "test data", "--yes")


def test_what_was_mended_in_relevo_is_sent_when_it_is_put_back(relevo, live):
    """The same id as one that is sent: the record is taken, and nothing goes out twice."""
    identity, to = str(uuid4()), address()
    relevo.produce({"id": identity, "to": to, "subject": "s", "body": "b"})
    relevo.wait_for(identity, "sent")
    letter = dead(relevo, live, {"id": identity, "to": to, "subject": "other", "body": "b"})
    assert letter["reason"] == "idempotency_conflict"
    live.run(
        "dlq", "replay", "--of", "idempotency_conflict", "--original-offset", str(letter["original"]["offset"]), "--yes"
    )
    again = eventually(
        lambda: [each for each in listed(live, "--of", "idempotency_conflict") if each["attempts"] == 2], 20, 0.3
    )
    assert len(relevo.mailbox.messages(to=to)) == 1
    live.run("dlq", "discard", *map(place, again), "--reason", "test data", "--yes")


def test_what_is_discarded_is_no_longer_offered_and_says_why(relevo, live):
    letters = [dead(relevo, live, b"not JSON") for _ in range(3)]
    refused = live.json("dlq", "discard", place(letters[0]), "--reason", "test data", code=2)
    assert refused["error"]["code"] == "not_confirmed"
    assert place(letters[0]) in {place(each) for each in listed(live)}
    assert "Discarded: 2." in live.run("dlq", "discard", *map(place, letters[:2]), "--reason", "test data", "--yes")
    left = {place(each) for each in listed(live, "--of", "invalid_json", "--from", letters[0]["at"])}
    assert place(letters[2]) in left
    assert not {place(each) for each in letters[:2]} & left
    [one] = [each for each in listed(live, "--handled") if place(each) == place(letters[0])]
    assert (one["handled"]["action"], one["handled"]["reason"]) == ("discarded", "test data")
    live.json("dlq", "discard", "--all", "--reason", "test data", "--yes")
    assert listed(live) == []


def test_more_than_one_batch_goes_back(relevo, live):
    marks = [f"not JSON {uuid4()}".encode() for _ in range(130)]
    for mark in marks[:-1]:
        relevo.produce(mark)
    dead(relevo, live, marks[-1])
    live.json("dlq", "replay", "--all", "--yes")

    def counted():
        values = [record.value() for record in relevo.dead_letters()]
        return all(values.count(mark) == 2 for mark in marks)

    eventually(counted, 30, 0.5)
    live.json("dlq", "discard", "--all", "--reason", "test data", "--yes")
