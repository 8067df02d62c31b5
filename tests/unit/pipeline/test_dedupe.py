"""A batch of records in; forwards, rejections and marks out. The contract suite holds the fakes to the real thing."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from infra import metrics, patience
from infra.health import Readiness
from pipeline.dedupe import Deduplicator, Incoming
from schemas.errors import TransientError
from schemas.identity import result_event_id
from schemas.records import decode_deduplicated, header
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, RESULTS
from tests.fakes import FakeTable, FakeWriter


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(patience, "WAIT_S_MIN", 0.0001)
    monkeypatch.setattr(patience, "WAIT_S_MAX", 0.0002)


class Bench:
    def __init__(self):
        self.table, self.writer, self.readiness = FakeTable(), FakeWriter(), Readiness()
        self.deduplicator = Deduplicator(
            self.table, self.writer, self.readiness, hash_key=b"k", dead_letter_ratio_max=0.95
        )
        self.offset = 900

    def record(self, value, **given):
        self.offset += 1
        raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        return Incoming(3, self.offset, 1_790_000_000_000, given.get("key"), raw, tuple(given.get("headers", ())))

    async def process(self, *values):
        records = [each if isinstance(each, Incoming) else self.record(each) for each in values]
        await self.deduplicator.process(records)
        return records

    @property
    def forwarded(self):
        return [decode_deduplicated(each.value, each.headers) for each in self.writer.on(DEDUPLICATED)]

    @property
    def results(self):
        return [json.loads(each.value) for each in self.writer.on(RESULTS)]


def request(**changes):
    return {"id": str(uuid4()), "to": "a@example.org", "subject": "s", "body": "b"} | changes


async def test_the_first_sight_is_forwarded_with_its_source_and_told():
    bench = Bench()
    given = request(metadata={"order": 42})
    await bench.process(given)
    [(notification, source)] = bench.forwarded
    assert str(notification.id) == given["id"]
    assert notification.content.metadata == {"order": 42}
    assert (source.partition, source.offset, source.index, source.door) == (3, 901, 0, "kafka")
    [told] = bench.results
    assert (told["status"], told["seq"], told["terminal"]) == ("queued", 1, False)
    assert told["event_id"] == str(result_event_id(UUID(given["id"]), 1))
    assert bench.table.entries[notification.id][0] == "done"


@pytest.mark.parametrize(("seconds", "status"), [(1, "scheduled"), (0, "queued"), (-1, "queued")])
async def test_whether_it_is_for_later_is_told_by_the_time_of_its_record_alone(seconds, status):
    bench = Bench()
    accepted_at = datetime.now(UTC) - timedelta(days=3)
    due = accepted_at.replace(microsecond=0) + timedelta(seconds=seconds)
    given = json.dumps(request(scheduled_for=due.isoformat())).encode()
    timestamp_ms = int(accepted_at.timestamp()) * 1000
    await bench.deduplicator.process([Incoming(3, 901, timestamp_ms, None, given, ())])
    assert [told["status"] for told in bench.results] == [status]


async def test_the_same_again_is_dropped():
    bench = Bench()
    given = request()
    await bench.process(given)
    await bench.process(given, given)
    assert len(bench.forwarded) == 1


async def test_what_was_claimed_and_perhaps_not_forwarded_is_forwarded_again():
    bench = Bench()
    given = request()
    # Died after the claim: the same record comes again, and a copy elsewhere.
    record = bench.record(given)
    bench.writer.away = 10**9
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.deduplicator.process([record]), 0.05)
    bench.writer.away = 0
    await bench.process(record)
    assert len(bench.forwarded) == 1


async def test_a_claim_of_another_record_is_no_reason_to_drop():
    bench = Bench()
    given = request()
    await bench.process(given)
    identity = UUID(given["id"])
    _, fingerprint, _ = bench.table.entries[identity]
    bench.table.entries[identity] = ("claimed", fingerprint, "0:0:0")
    await bench.process(given)
    assert len(bench.forwarded) == 2


async def test_two_of_one_id_in_one_batch_are_both_kept_until_one_is_done():
    bench = Bench()
    given = request()
    await bench.process([given, given])
    # The second finds the claim of the first, which might have died: forwarded too; the ledger absorbs it.
    assert len(bench.forwarded) == 2


async def test_the_same_id_for_other_content_is_rejected_and_the_first_untouched():
    bench = Bench()
    given = request()
    await bench.process(given)
    await bench.process(given | {"subject": "other"})
    assert len(bench.forwarded) == 1
    told = bench.results[-1]
    assert (told["status"], told["reason"]["code"], told["id"]) == ("rejected", "idempotency_conflict", given["id"])
    assert told["terminal"] is False
    assert told["seq"] == 0
    assert len(bench.writer.on(DEAD_LETTERS)) == 1


async def test_what_ingest_accepted_is_never_rejected_here_for_what_a_producer_sent():
    bench = Bench()
    given = request()
    await bench.process(given)
    accepted = bench.record(given | {"subject": "accepted over HTTP"}, headers=[("relevo-door", b"http")])
    await bench.process(accepted)
    assert [notification.content.subject for notification, _ in bench.forwarded] == ["s", "accepted over HTTP"]
    assert [each["status"] for each in bench.results] == ["queued", "queued"]


async def test_a_bad_item_leaves_its_neighbours_alone_and_its_record_becomes_one_dead_letter():
    bench = Bench()
    good = [request(), request()]
    value = [good[0], {"id": "x"}, good[1], request(to="a@example.org,b@example.org")]
    raw = json.dumps(value).encode()
    [record] = await bench.process(bench.record(raw, key=b"k\x00", headers=[("h", b"\xff")]))
    assert [str(notification.id) for notification, _ in bench.forwarded] == [good[0]["id"], good[1]["id"]]
    [letter] = bench.writer.on(DEAD_LETTERS)
    assert (letter.key, letter.value) == (b"k\x00", raw)
    assert letter.headers[0] == ("h", b"\xff")
    assert header(letter.headers, "dlq-original-offset") == str(record.offset)
    rejected = [each for each in bench.results if each["status"] == "rejected"]
    assert [(each["source"]["index"], each["source"]["offset"]) for each in rejected] == [(1, 901), (3, 901)]
    assert {"pointer": "/to", "code": "invalid_address"}.items() <= rejected[1]["errors"][0].items()


@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe", b"{", b"[]", b"42", b'"x"', b"[" * 100_000, b"null"])
async def test_what_cannot_be_read_becomes_a_dead_letter_byte_for_byte(value):
    bench = Bench()
    [record] = await bench.process(bench.record(value))
    [letter] = bench.writer.on(DEAD_LETTERS)
    assert letter.value == record.value
    [told] = bench.results
    assert (told["status"], told["id"], told["terminal"]) == ("rejected", None, True)


async def test_a_bug_met_on_one_record_blocks_nobody(monkeypatch):
    bench = Bench()

    def breaks(value, headers, at):
        if b"poison" in value:
            raise RuntimeError("a bug of ours")
        return real(value, headers, at=at)

    from pipeline import dedupe

    real = dedupe.read_requested
    monkeypatch.setattr(dedupe, "read_requested", breaks)
    await bench.process(request(), request(body="poison"), request())
    assert len(bench.forwarded) == 2
    [letter] = bench.writer.on(DEAD_LETTERS)
    assert header(letter.headers, "dlq-reason") == "internal"


@pytest.mark.parametrize("server", ["table", "writer"])
async def test_an_outage_costs_time_only_and_turns_readiness_red(server, monkeypatch):
    bench = Bench()
    seen = []
    red = bench.readiness.red
    monkeypatch.setattr(bench.readiness, "red", lambda *why: (seen.append(why), red(*why)))
    getattr(bench, server).away = 3
    await bench.process(request())
    assert len(bench.forwarded) == 1
    assert {what for what, _ in seen} == {"redis" if server == "table" else "kafka"}
    assert bench.readiness.reasons == {}


async def test_an_emptied_table_costs_a_copy_and_loses_nothing():
    bench = Bench()
    given = request()
    await bench.process(given)
    await bench.table.clear()
    await bench.process(given)
    assert len(bench.forwarded) == 2


async def test_results_hold_no_address_subject_or_body():
    bench = Bench()
    await bench.process(request(to="canary.address@example.org", subject="canary-subject", body="canary-body"))
    told = b"".join(each.value for each in bench.writer.on(RESULTS))
    assert b"canary" not in told


async def test_when_nearly_nothing_can_be_read_nothing_more_is_claimed_written_or_returned():
    bench = Bench()
    for _ in range(7):
        await bench.process(*[b"not json"] * 200)
    assert len(bench.writer.on(DEAD_LETTERS)) == 1400
    written = len(bench.writer.written)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.process(*[b"not json"] * 199, request()), 0.05)
    assert len(bench.writer.written) == written
    assert bench.table.entries == {}
    assert "dead_letters" in bench.readiness.reasons
    assert metrics.DEAD_LETTERS_STOPPED._value.get() == 1
    # A restart begins with a fresh window.
    again = Bench()
    assert metrics.DEAD_LETTERS_STOPPED._value.get() == 0
    await again.process(*[b"not json"] * 199, request())
    assert len(again.writer.on(DEAD_LETTERS)) == 199


async def test_conflicts_do_not_stop_it():
    bench = Bench()
    given = request()
    await bench.process(given)
    for n in range(10):
        await bench.process(*[given | {"subject": f"other {n}"}] * 200)
    assert len(bench.writer.on(DEAD_LETTERS)) == 2000
    assert bench.readiness.reasons == {}


async def test_a_rejection_is_counted_once_however_often_kafka_is_asked():
    bench = Bench()
    count = metrics.REJECTED.labels("invalid_json")._value
    before = count.get()
    bench.writer.away = 3
    await bench.process(b"{")
    assert count.get() == before + 1


async def test_what_no_dead_letter_was_written_for_is_not_returned():
    bench = Bench()
    write = bench.writer.write

    async def all_but_dead_letters(topic, records):
        if topic is DEAD_LETTERS and records:
            raise TransientError("Kafka: TopicAuthorizationFailedError")
        await write(topic, records)

    bench.writer.write = all_but_dead_letters
    given = request()
    records = [bench.record(b"not json"), bench.record(given)]
    # Returning is what acknowledges them.
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bench.deduplicator.process(records), 0.05)
    assert bench.readiness.reasons.keys() == {"kafka"}
    assert bench.table.entries[UUID(given["id"])][0] == "claimed"
    bench.writer.write = write
    await bench.process(*records)
    [letter] = bench.writer.on(DEAD_LETTERS)
    assert letter.value == b"not json"
    assert bench.table.entries[UUID(given["id"])][0] == "done"
    assert bench.readiness.reasons == {}
