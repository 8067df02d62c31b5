"""Poison: bad records among good ones cost the good ones nothing; where nearly all is bad, the pipeline stops."""

import json
import random
import time
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from pipeline.dead_letter_limit import WINDOW
from schemas.limits import BODY_CHARS_MAX
from schemas.topics import PIPELINE_GROUP, REQUESTED, SENDER_GROUP
from tests.lag import committed, lag
from tests.processes import eventually
from tests.relevo import address

SEED = 20261124


def request(**changes):
    return {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"} | changes


def produce_all(relevo, values, *, partition=None):
    """Produce *values*, each with a key and a header of its own; {(partition, offset): (key, value, headers)}."""
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap, "message.max.bytes": 8 * 1024 * 1024})
    placed = {}

    def reported(error, record):
        assert error is None, error
        placed[record.partition(), record.offset()] = (record.key(), record.value(), [("h", record.key()[::-1])])

    for value in values:
        key = uuid4().bytes
        where = {} if partition is None else {"partition": partition}
        while True:
            try:
                producer.produce(REQUESTED.name, value, key, headers=[("h", key[::-1])], on_delivery=reported, **where)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0
    assert len(placed) == len(values)
    return placed


def raw(value):
    return json.dumps(value).encode()


def poison(rng, known):
    """Return 1,000 bad values of every kind; *known* are requests that were sent already."""
    wrong = [
        lambda: raw({"id": "7", "to": "nobody", "subject": "", "body": 3}),
        lambda: raw(request(to="a@example.org,b@example.org")),
        lambda: raw(request(schema="notifications.requested/2")),
        lambda: raw({"mensaje": "hola"}),
        lambda: raw([{"nested": [request()]}]),
        lambda: raw([]),
        lambda: raw("text"),
        lambda: b"",
        lambda: None,
        lambda: b'{"id": "' + b"[" * 5000,
    ]
    values = [rng.randbytes(rng.randint(1, 2000)) for _ in range(600)]
    values += [rng.choice(wrong)() for _ in range(298)]
    # The broker takes up to 8 MiB.
    values += [raw(request(body="x" * (7 * 1024 * 1024))), raw(request(body="ñ" * (BODY_CHARS_MAX + 1)))]
    values += [raw(each | {"subject": "other content"}) for each in rng.sample(known, 100)]
    assert len(values) == 1000
    return values


def assert_dead_letters(relevo, bad):
    """Hold the dead letters and the rejections against *bad*, records by their coordinates."""
    letters = {}
    for letter in relevo.dead_letters():
        headers = dict(letter.headers())
        at = int(headers["dlq-original-partition"]), int(headers["dlq-original-offset"])
        if at in bad:
            assert at not in letters, "one dead letter for each record"
            letters[at] = letter
    assert letters.keys() == bad.keys()
    for at, letter in letters.items():
        key, value, headers = bad[at]
        assert (letter.key(), letter.value()) == (key, value)
        assert letter.headers()[: len(headers)] == headers
        assert dict(letter.headers())["dlq-original-topic"] == REQUESTED.name.encode()

    told = {}
    for result in relevo.results():
        if result["status"] == "rejected":
            told.setdefault((result["source"]["partition"], result["source"]["offset"]), []).append(result)
    for at in bad:
        [rejection] = told[at]
        assert rejection["errors"], at
        assert all(each["code"] and each["detail"] for each in rejection["errors"])


def no_lag(relevo):
    bootstrap = relevo.servers.kafka_bootstrap
    found = {group: lag(bootstrap, group) for group in (PIPELINE_GROUP, SENDER_GROUP)}
    assert not any(found.values()), found
    return True


@pytest.mark.timeout(240)
def test_a_thousand_bad_records_among_a_thousand_good_ones_cost_the_good_ones_nothing(relevo):
    rng = random.Random(SEED)
    known = [request() for _ in range(200)]
    produce_all(relevo, [raw(each) for each in known])
    eventually(lambda: relevo.mailbox.counts().keys() >= {each["id"] for each in known}, 60, 0.5)

    good = [request() for _ in range(800)]
    mixed = [(value, False) for value in poison(rng, known)] + [(raw(each), True) for each in good]
    rng.shuffle(mixed)
    placed = produce_all(relevo, [value for value, _ in mixed])
    right = {raw(each) for each in good}
    bad = {at: record for at, record in placed.items() if record[1] not in right}
    assert len(bad) == 1000

    ids = {each["id"] for each in (*known, *good)}
    eventually(lambda: relevo.mailbox.counts().keys() >= ids, 90, 0.5)
    eventually(lambda: no_lag(relevo), 30, 0.5)
    counts = relevo.mailbox.counts()
    assert {counts[each] for each in ids} == {1}
    assert_dead_letters(relevo, bad)
    terminal = {}
    for result in relevo.results():
        if result["terminal"] and result["id"] in ids:
            terminal.setdefault(result["id"], []).append(result["status"])
    assert terminal == {each: ["sent"] for each in ids}
    assert relevo.pipeline.readiness()[0] == 200
    assert relevo.sender.readiness()[0] == 200


@pytest.mark.timeout(240)
def test_where_nearly_everything_is_bad_it_stops_and_goes_on_when_told_to(relevo, servers):
    """
    What is right after a restart: a fresh window. If what comes can be read again (a relevo that was deployed wrong is
    mended), all goes on as if nothing had been; if not, it stops again, at most one window of dead letters later.
    Who knows that the bad records are bad says so by RELEVO_DEAD_LETTER_RATIO_MAX=1.
    """
    eventually(lambda: no_lag(relevo), 30, 0.5)
    before = committed(servers.kafka_bootstrap, PIPELINE_GROUP)
    bad = produce_all(relevo, [b"a wrong deploy, record %d" % n for n in range(3 * WINDOW)], partition=0)
    behind = [request() for _ in range(20)]
    produce_all(relevo, [raw(each) for each in behind], partition=0)

    def stopped():
        status, answer = relevo.pipeline.readiness()
        assert (status, "dead_letters" in answer.get("reasons", {})) == (503, True), answer
        return True

    eventually(stopped, 30)
    assert relevo.pipeline.metric("relevo_dead_letters_stopped") == 1
    assert len(relevo.pipeline.events("dead_letter_limit_reached")) == 1
    stands = stays(lambda: committed(servers.kafka_bootstrap, PIPELINE_GROUP), 4)
    assert stands[0] - before[0] < WINDOW, "less than a window was acknowledged"
    letters = len(dead_letters_of(relevo, bad))
    assert letters == stands[0] - before[0], "what was acknowledged is dead-lettered, and no more"
    assert not relevo.mailbox.counts().keys() & {each["id"] for each in behind}

    # Restarted as it is, it stops again, one window further.
    assert relevo.pipeline.stop() == 0
    relevo.pipeline.start()
    eventually(stopped, 30)
    further = stays(lambda: committed(servers.kafka_bootstrap, PIPELINE_GROUP), 4)
    assert stands[0] < further[0] < stands[0] + WINDOW
    assert len(dead_letters_of(relevo, bad)) == further[0] - before[0]

    # A person decides: they are bad.
    assert relevo.pipeline.stop() == 0
    told = relevo.service("pipeline", RELEVO_DEAD_LETTER_RATIO_MAX="1")
    try:
        told.start()
        eventually(lambda: relevo.mailbox.counts().keys() >= {each["id"] for each in behind}, 60, 0.5)
        eventually(lambda: no_lag(relevo), 30, 0.5)
    finally:
        told.stop()
        relevo.pipeline.start()
    counts = relevo.mailbox.counts()
    assert {counts[each["id"]] for each in behind} == {1}
    assert_dead_letters(relevo, bad)


def stays(look, for_s):
    """Return what *look* finds once it has found the same for a while."""
    found, since = look(), time.monotonic()
    while time.monotonic() - since < for_s:
        time.sleep(0.5)
        if (now := look()) != found:
            found, since = now, time.monotonic()
    return found


def dead_letters_of(relevo, bad):
    values = {value for _, value, _ in bad.values()}
    return [letter for letter in relevo.dead_letters() if letter.value() in values]
