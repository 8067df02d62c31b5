"""Accepting: durable before it is answered, and never taken twice."""

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from ingest.accept import WAITING_MAX, Acceptor, Verdict
from schemas.errors import InvalidRequestError, TransientError
from schemas.identity import contact_id, new_id
from schemas.messages import ContactRequest, Notification
from schemas.states import State
from tests.unit.ingest.fakes import TRACEPARENT, FakeLedger, FakeRelay, make_content, make_submission


@pytest.fixture
def ledger():
    return FakeLedger()


@pytest.fixture
def relay():
    return FakeRelay()


@pytest.fixture
def acceptor(ledger, relay):
    return Acceptor(ledger, relay)


async def test_what_is_new_is_durable_and_relayed(acceptor, ledger, relay):
    submission = make_submission()
    answer = await acceptor.accept(submission)
    assert answer.verdict is Verdict.NEW
    assert answer.id in ledger.rows
    assert [row.notification for row in relay.offered] == [submission.first]


async def test_the_same_again_gives_the_first_answer_and_is_not_relayed_again(acceptor, relay):
    submission = make_submission()
    await acceptor.accept(submission)
    later = Notification(submission.first.id, submission.first.content, TRACEPARENT.replace("4bf9", "0000"))
    answer = await acceptor.accept(make_submission(id=later.id, content=later.content))
    assert answer.verdict is Verdict.REPLAYED
    assert answer.traceparent == submission.first.traceparent
    assert len(relay.offered) == 1


async def test_the_same_id_with_other_content_is_a_conflict_that_tells_nothing(acceptor, relay):
    first = make_submission()
    await acceptor.accept(first)
    answer = await acceptor.accept(make_submission(id=first.first.id, content=make_content(body="Otra cosa.")))
    assert (answer.verdict, answer.traceparent) == (Verdict.CONFLICT, None)
    assert len(relay.offered) == 1


async def test_another_clients_id_is_a_conflict_even_with_the_same_content(acceptor):
    first = make_submission(client="billing")
    await acceptor.accept(first)
    answer = await acceptor.accept(make_submission(id=first.first.id, client="shop"))
    assert (answer.verdict, answer.traceparent) == (Verdict.CONFLICT, None)


async def test_an_id_that_came_by_kafka_is_replayed_to_any_client(acceptor):
    by_kafka = make_submission(client=None)
    await acceptor.accept(by_kafka)
    assert (await acceptor.accept(make_submission(id=by_kafka.first.id))).verdict is Verdict.REPLAYED


async def test_two_equal_ids_in_one_batch_are_one_new_and_one_replayed_or_in_conflict(acceptor, ledger, relay):
    identity = new_id()
    held = [acceptor.accept(make_submission()) for _ in range(2)]  # both writers are busy
    same = [make_submission(id=identity), make_submission(id=identity)]
    other = make_submission(id=identity, content=make_content(body="Otra cosa."))
    foreign = make_submission(id=identity, client="shop")
    answers = await asyncio.gather(*held, *(acceptor.accept(each) for each in (*same, other, foreign)))
    verdicts = [answer.verdict for answer in answers[2:]]
    assert verdicts == [Verdict.NEW, Verdict.REPLAYED, Verdict.CONFLICT, Verdict.CONFLICT]
    assert sum(row.notification.id == identity for row in relay.offered) == 1


async def test_what_waits_is_written_together(acceptor, ledger):
    await asyncio.gather(*(acceptor.accept(make_submission()) for _ in range(1200)))
    assert sum(ledger.batches) == 1200
    assert len(ledger.batches) <= 5
    assert max(ledger.batches) <= 500


async def test_a_ledger_that_is_away_accepts_nothing(acceptor, ledger, relay):
    ledger.down = True
    with pytest.raises(TransientError):
        await acceptor.accept(make_submission())
    assert not relay.offered


async def test_an_unknown_outcome_is_no_acceptance_and_the_same_again_is_safe(acceptor, ledger):
    ledger.deaf = True
    submission = make_submission()
    with pytest.raises(TransientError):
        await acceptor.accept(submission)
    ledger.deaf = False
    assert (await acceptor.accept(submission)).verdict is Verdict.REPLAYED


async def test_a_known_row_that_cannot_be_read_now_does_not_take_its_neighbours_along(acceptor, ledger):
    old = make_submission()
    await acceptor.accept(old)
    ledger.unreadable = True
    held = [acceptor.accept(make_submission()) for _ in range(2)]
    results = await asyncio.gather(
        *held, acceptor.accept(old), acceptor.accept(make_submission()), return_exceptions=True
    )
    assert isinstance(results[2], TransientError)
    assert results[3].verdict is Verdict.NEW


async def test_a_contact_message_is_taken_as_a_whole(acceptor, relay):
    first = new_id()
    form = ContactRequest(name="Elon", email="elon@xcorp.com", message="Hola")
    both = tuple(Notification(contact_id(first, place), make_content(), TRACEPARENT) for place in range(2))
    await acceptor.accept(make_submission(id=first))
    submission = make_submission()
    taken = type(submission)(notifications=both, client=None, contact=form)
    assert (await acceptor.accept(taken)).verdict is Verdict.CONFLICT
    assert len(relay.offered) == 1


async def test_all_rows_of_a_batch_have_one_moment(acceptor, relay):
    await asyncio.gather(*(acceptor.accept(make_submission()) for _ in range(300)))
    moments = [row.accepted_at for row in relay.offered]
    assert len(set(moments)) <= 3
    assert all(a <= b for a, b in pairwise(moments))


async def test_more_than_can_wait_is_refused_at_once(ledger, relay):
    free = asyncio.Event()

    class Slow(FakeLedger):
        async def insert(self, submissions, accepted_at):
            await free.wait()
            return await super().insert(submissions, accepted_at)

    acceptor = Acceptor(Slow(), relay)
    tasks = [asyncio.create_task(acceptor.accept(make_submission())) for _ in range(WAITING_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(TransientError, match="too many"):
        await acceptor.accept(make_submission())
    free.set()
    await asyncio.gather(*tasks)


async def test_many_at_once_are_written_in_one_go_and_each_has_its_answer_in_order(acceptor, ledger):
    old = make_submission()
    await acceptor.accept(old)
    fresh = [make_submission() for _ in range(97)]
    conflict = make_submission(id=old.first.id, content=make_content(body="Otra cosa."))
    again = make_submission(id=fresh[0].first.id)
    answers = await acceptor.accept_all([old, *fresh, conflict, again])
    verdicts = [answer.verdict for answer in answers]
    assert verdicts == [Verdict.REPLAYED, *[Verdict.NEW] * 97, Verdict.CONFLICT, Verdict.REPLAYED]
    assert [answer.id for answer in answers[1:98]] == [each.first.id for each in fresh]
    assert ledger.batches == [1, 98], "one write, and equal ids once"
    assert await acceptor.accept_all([]) == []


async def test_of_many_at_once_each_says_for_itself_that_it_was_not_stored(relay):
    class OneByOne(FakeLedger):
        async def insert(self, submissions, accepted_at):
            self.down = len(self.batches) == 1
            return await super().insert(submissions, accepted_at)

    ledger = OneByOne()
    acceptor = Acceptor(ledger, relay)
    submissions = [make_submission() for _ in range(600)]
    answers = await acceptor.accept_all(submissions)
    stored = [each for each in answers if not isinstance(each, TransientError)]
    assert len(stored) == 500, "what one write takes"
    assert {each.id for each in stored} == ledger.rows.keys()
    again = await Acceptor(ledger_that_is_back(ledger), relay).accept_all(submissions)
    assert [each.verdict for each in again] == [Verdict.REPLAYED] * 500 + [Verdict.NEW] * 100


def ledger_that_is_back(ledger):
    back = FakeLedger()
    back.rows = ledger.rows
    return back


async def test_many_at_once_wait_no_longer_than_one(relay, monkeypatch):
    monkeypatch.setattr("ingest.accept.ACCEPT_S_MAX", 0.05)

    class Hanging(FakeLedger):
        async def insert(self, submissions, accepted_at):
            await asyncio.Event().wait()

    acceptor = Acceptor(Hanging(), relay)
    async with asyncio.timeout(5):
        answers = await acceptor.accept_all([make_submission() for _ in range(3)])
    assert [type(answer) for answer in answers] == [TransientError] * 3


async def test_many_at_once_are_refused_as_a_whole_where_there_is_no_room(acceptor, ledger):
    with pytest.raises(TransientError, match="too many"):
        await acceptor.accept_all([make_submission()] * (WAITING_MAX + 1))
    assert not ledger.batches
    assert (await acceptor.accept(make_submission())).verdict is Verdict.NEW


async def test_a_bug_below_is_raised_once(relay):
    class Broken(FakeLedger):
        async def insert(self, submissions, accepted_at):
            raise ZeroDivisionError

    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: noise.append(context))
    with pytest.raises(ZeroDivisionError):
        await Acceptor(Broken(), relay).accept_all([make_submission() for _ in range(3)])
    gc.collect()
    assert noise == []


def in_seconds(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_the_answer_says_whether_it_is_for_later_and_a_repeat_says_what_the_first_time_said(acceptor):
    submission = make_submission(content=make_content(scheduled_for=in_seconds(0.05)))
    assert (await acceptor.accept(submission)).status is State.SCHEDULED
    assert (await acceptor.accept(make_submission(content=make_content(scheduled_for=in_seconds(-1))))).status is (
        State.QUEUED
    )
    await asyncio.sleep(0.1)
    again = await acceptor.accept(make_submission(id=submission.first.id, content=submission.first.content))
    assert (again.verdict, again.status) == (Verdict.REPLAYED, State.SCHEDULED)


async def test_what_has_expired_already_is_refused_and_its_neighbours_are_not(acceptor, ledger, relay):
    late = make_submission(content=make_content(expires_at=in_seconds(-1)))
    good = make_submission(content=make_content(expires_at=in_seconds(60)))
    refused, accepted = await acceptor.accept_all([late, good])
    assert isinstance(refused, InvalidRequestError)
    assert [(error.pointer, error.code) for error in refused.errors] == [("/expires_at", "already_expired")]
    assert accepted.verdict is Verdict.NEW
    assert list(ledger.rows) == [good.first.id]
    assert len(relay.offered) == 1
    with pytest.raises(InvalidRequestError):
        await acceptor.accept(late)


async def test_a_repeat_that_comes_after_its_expiry_has_its_first_answer(acceptor, ledger):
    submission = make_submission(content=make_content(expires_at=in_seconds(0.05)))
    await acceptor.accept(submission)
    await asyncio.sleep(0.1)
    again = make_submission(id=submission.first.id, content=submission.first.content)
    assert (await acceptor.accept(again)).verdict is Verdict.REPLAYED
    other = make_content(body="Otra cosa.", expires_at=in_seconds(-1))
    assert (await acceptor.accept(make_submission(id=again.first.id, content=other))).verdict is Verdict.CONFLICT
    # Whether it is a repeat is not known now, so that it must not be refused for good.
    ledger.unreadable = True
    with pytest.raises(TransientError):
        await acceptor.accept(again)
