"""Who waits for a connection: its envelope goes out behind the message before it, and what then becomes of both."""

import asyncio

import pytest

from sender import smtp
from sender.replies import Verdict
from tests.integration.sender.test_hostile_relay import ENVELOPE, ON_THE_WIRE, relay_of
from tests.integration.sender.test_hostile_relay import send as send_one

__all__ = ["relay_of"]

READY = b"250 1\r\n250 2\r\n354 3\r\n"


def two(relay, before_second=None):
    """Begin two transactions, the second of which finds the only connection taken; return both."""
    return [asyncio.ensure_future(send_one(relay)), asyncio.ensure_future(send_one(relay, before_second))]


async def verdicts(tasks):
    return [judgement.verdict for judgement, _ in await asyncio.gather(*tasks)]


async def up_to_both(peer):
    """Play the relay until the first message and the envelope behind it have come, in one piece."""
    await peer.ready_for_message()
    await peer.hear(ON_THE_WIRE + ENVELOPE)


async def takes_one(peer):
    await peer.ready_for_message()
    await peer.hear(ON_THE_WIRE)
    peer.say(b"250 taken\r\n")
    await peer.part()


@pytest.mark.parametrize(
    ("answer", "verdict"), [(b"250 taken\r\n", Verdict.ACCEPTED), (b"554 5.7.1 no\r\n", Verdict.PERMANENT)]
)
async def test_whatever_the_first_is_told_the_second_goes_on_behind_it(relay_of, answer, verdict):
    async def play(peer):
        await up_to_both(peer)
        peer.say(answer + READY)
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 taken\r\n")
        await peer.part()

    assert await verdicts(two(await relay_of(play))) == [verdict, Verdict.ACCEPTED]


async def test_the_second_claims_only_when_the_first_has_its_answer(relay_of):
    answered = asyncio.Event()

    async def claims():
        assert answered.is_set()
        return True

    async def play(peer):
        await up_to_both(peer)
        await asyncio.sleep(0.05)
        answered.set()
        peer.say(b"250 taken\r\n" + READY)
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 taken\r\n")
        await peer.part()

    assert await verdicts(two(await relay_of(play), claims)) == [Verdict.ACCEPTED] * 2


async def test_a_refusal_of_the_second_is_its_own(relay_of):
    async def play(peer):
        await up_to_both(peer)
        peer.say(b"250 taken\r\n250 1\r\n550 5.1.1 nobody\r\n503 no\r\n")
        await peer.hear(b"RSET\r\n")
        peer.say(b"250 ok\r\n")
        await peer.part()

    assert await verdicts(two(await relay_of(play))) == [Verdict.ACCEPTED, Verdict.PERMANENT]


@pytest.mark.parametrize(
    ("last_words", "verdict"),
    [
        (b"", Verdict.IN_DOUBT),
        (b"421 4.3.2 bye\r\n", Verdict.TRANSIENT),
        (b"250 taken\r\n", Verdict.ACCEPTED),
        (b"250 taken\r\n421 4.3.2 bye\r\n", Verdict.ACCEPTED),
        (b"nonsense\r\n" + READY, Verdict.IN_DOUBT),
    ],
)
async def test_when_the_connection_ends_with_the_first_the_second_has_another(relay_of, last_words, verdict):
    async def play(peer):
        await up_to_both(peer)
        peer.say(last_words)

    assert await verdicts(two(await relay_of(play, takes_one))) == [verdict, Verdict.ACCEPTED]


async def test_who_was_told_354_too_early_is_out_of_step_and_sends_nothing(relay_of):
    async def play(peer):
        await up_to_both(peer)
        # One answer too many: what is taken for the 354 is none.
        peer.say(b"250 taken\r\n250 spurious\r\n" + READY)
        await peer.hear_nothing_more()

    [first, second] = await asyncio.gather(*two(await relay_of(play)))
    assert first[0].verdict is Verdict.ACCEPTED
    assert (second[0].verdict, second[0].code, second[1]) == (Verdict.TRANSIENT, "out_of_step", 0)


async def test_behind_a_slow_answer_nobody_waits_for_long(relay_of, monkeypatch):
    monkeypatch.setattr(smtp, "BEHIND_S_MAX", 0.05)

    async def play(peer):
        await up_to_both(peer)
        await asyncio.sleep(0.3)
        peer.say(b"250 taken\r\n" + READY)
        # The envelope that was out is nobody's any more, so this connection is of no use.
        await peer.hear_nothing_more()

    relay = await relay_of(play, takes_one)
    tasks = two(relay)
    assert await verdicts(tasks) == [Verdict.ACCEPTED, Verdict.ACCEPTED]


async def test_who_leaves_the_line_takes_nothing_from_the_one_before_it(relay_of):
    both = asyncio.Event()
    left = asyncio.Event()

    async def play(peer):
        await up_to_both(peer)
        both.set()
        await left.wait()
        peer.say(b"250 taken\r\n" + READY)
        await peer.hear_nothing_more()

    relay = await relay_of(play, takes_one)
    first, second = two(relay)
    await both.wait()
    second.cancel()
    await asyncio.wait({second})
    left.set()
    assert (await first)[0].verdict is Verdict.ACCEPTED
    # The place is free again, with another connection.
    assert (await send_one(relay))[0].verdict is Verdict.ACCEPTED


async def test_who_is_cancelled_in_the_moment_of_its_turn_leaves_no_envelope_behind(relay_of):
    async def play(peer):
        await up_to_both(peer)
        peer.say(b"250 taken\r\n" + READY)
        await peer.hear_nothing_more()

    relay = await relay_of(play, takes_one)
    first, second = two(relay)
    begin = relay._begin

    def begin_and_cancel(offer, place):
        begin(offer, place)
        second.cancel()

    relay._begin = begin_and_cancel
    assert (await first)[0].verdict is Verdict.ACCEPTED
    await asyncio.wait({second})
    assert second.cancelled()
    assert (await send_one(relay))[0].verdict is Verdict.ACCEPTED


async def test_without_pipelining_nothing_is_sent_ahead(relay_of):
    async def play(peer):
        await peer.greeted(b"SIZE 1000000")
        for _ in range(2):
            for command, answer in zip(ENVELOPE.splitlines(keepends=True), (b"250", b"250", b"354"), strict=True):
                await peer.hear(command)
                peer.say(answer + b" ok\r\n")
            await peer.hear(ON_THE_WIRE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.05)
            peer.say(b"250 ok\r\n")
        await peer.part()

    assert await verdicts(two(await relay_of(play))) == [Verdict.ACCEPTED] * 2
