"""A relay that keeps to no rule, or to other rules than ours: what is sent to it, and what its words are taken for."""

import asyncio
import contextlib
from base64 import b64encode

import pytest

from infra.settings import RelayAddress
from sender import smtp, transaction
from sender.conversation import LINE_BYTES_MAX, LINES_MAX
from sender.replies import Verdict
from sender.smtp import Relay
from sender.transaction import Mail

MESSAGE = b"Subject: s\r\n\r\n.b\r\n"
ON_THE_WIRE = b"Subject: s\r\n\r\n..b\r\n.\r\n"
MAIL = Mail("relevo@example.org", "receiver@example.org", MESSAGE, smtputf8=False)
ENVELOPE = b"MAIL FROM:<relevo@example.org>\r\nRCPT TO:<receiver@example.org>\r\nDATA\r\n"


class Peer:
    """What the relay sees of one connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def say(self, data):
        self.writer.write(data)

    async def hear(self, data):
        assert await self.reader.readexactly(len(data)) == data

    async def greeted(self, *extensions):
        self.say(b"220 hostile\r\n")
        assert (await self.reader.readline()).startswith(b"EHLO ")
        lines = [b"hostile", *extensions]
        self.say(b"".join(b"250-%s\r\n" % line for line in lines[:-1]) + b"250 %s\r\n" % lines[-1])

    async def ready_for_message(self):
        """Play the ordinary relay up to the 354."""
        await self.greeted(b"PIPELINING")
        await self.hear(ENVELOPE)
        self.say(b"250 1\r\n250 2\r\n354 3\r\n")

    async def part(self):
        assert await self.reader.readline() in {b"QUIT\r\n", b""}
        self.say(b"221 bye\r\n")

    async def hear_nothing_more(self):
        with contextlib.suppress(ConnectionResetError):
            assert await self.reader.read() == b""


@pytest.fixture
async def relay_of():
    """
    Return a function: play, a coroutine function of Peer for each connection in turn -> relay.

    What went wrong in a play fails the test at its end.
    """
    async with contextlib.AsyncExitStack() as ends:
        plays, relays = [], []

        async def make(*scripts, user=""):
            left = list(scripts)

            async def connected(reader, writer):
                async def played():
                    try:
                        async with asyncio.timeout(10):
                            await left.pop(0)(Peer(reader, writer))
                    finally:
                        writer.close()

                plays.append(asyncio.ensure_future(played()))

            server = await asyncio.start_server(connected, "127.0.0.1", 0)
            ends.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            relay = Relay(RelayAddress.parse(f"smtp://{user}127.0.0.1:{port}"), connections_max=1, ca_file=None)
            relays.append(relay)
            return relay

        yield make
        for relay in relays:
            await relay.close()
        await asyncio.gather(*plays)


async def send(relay, before_message=None):
    asked = []

    async def go():
        asked.append(True)
        return True if before_message is None else await before_message()

    async with asyncio.timeout(10):
        judgement = await relay.send(MAIL, go)
    return judgement, len(asked)


async def takes_all(peer):
    await peer.ready_for_message()
    await peer.hear(ON_THE_WIRE)
    peer.say(b"250 2.0.0 taken\r\n")
    await peer.part()


async def test_where_pipelining_is_offered_the_envelope_is_one_piece(relay_of):
    # takes_all answers nothing before it has heard all three: one after the other would wait for ever.
    judgement, asked = await send(await relay_of(takes_all))
    assert (judgement.verdict, judgement.smtp, asked) == (Verdict.ACCEPTED, "250 2.0.0 taken", 1)


async def test_where_it_is_not_offered_each_command_waits_for_its_answer(relay_of):
    async def play(peer):
        await peer.greeted(b"SIZE 1000000")
        for command, answer in zip(ENVELOPE.splitlines(keepends=True), (b"250", b"250", b"354"), strict=True):
            await peer.hear(command)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.05)
            peer.say(answer + b" ok\r\n")
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 ok\r\n")

    judgement, asked = await send(await relay_of(play))
    assert (judgement.verdict, asked) == (Verdict.ACCEPTED, 1)


@pytest.mark.parametrize(
    ("answers", "verdict", "code"),
    [
        (b"250 1\r\n550 5.1.1 no\r\n354 go on\r\n", Verdict.PERMANENT, "smtp_550"),
        (b"451 4.7.1 later\r\n503 5.5.1 no\r\n354 go on\r\n", Verdict.TRANSIENT, "smtp_451"),
        (b"250 1\r\n451 4.7.1 later\r\n421 4.3.2 bye\r\n", Verdict.TRANSIENT, "smtp_451"),
        (b"250 1\r\n421 4.3.2 bye\r\n", Verdict.TRANSIENT, "smtp_421"),
        (b"250 1\r\n250 2\r\n250 not 354\r\n", Verdict.TRANSIENT, "out_of_step"),
        (b"250 1\r\n354 2\r\n354 3\r\n", Verdict.TRANSIENT, "out_of_step"),
        (b"250 1\r\n250 2\r\n451 4.3.0 no room\r\n", Verdict.TRANSIENT, "smtp_451"),
        (b"550 5.7.1 not from you\r\n503 no\r\n503 no\r\n", Verdict.CONFIGURATION, "smtp_550"),
    ],
)
async def test_the_first_refusal_counts_and_nothing_of_the_message_is_sent(relay_of, answers, verdict, code):
    async def play(peer):
        await peer.greeted(b"PIPELINING")
        await peer.hear(ENVELOPE)
        peer.say(answers)
        if b"421" in answers:
            peer.writer.close()
        else:
            assert await peer.reader.read(100) in {b"", b"RSET\r\n"}

    judgement, asked = await send(await relay_of(play))
    assert (judgement.verdict, judgement.code, asked) == (verdict, code, 0)


async def test_a_refused_recipient_costs_no_connection(relay_of):
    async def play(peer):
        await peer.greeted(b"PIPELINING")
        await peer.hear(ENVELOPE)
        peer.say(b"250 1\r\n550 5.1.1 no\r\n503 5.5.1 no recipient\r\n")
        await peer.hear(b"RSET\r\n")
        peer.say(b"250 ok\r\n")
        await peer.hear(ENVELOPE)
        peer.say(b"250 1\r\n250 2\r\n354 3\r\n")
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 ok\r\n")

    relay = await relay_of(play)
    assert (await send(relay))[0].verdict is Verdict.PERMANENT
    assert (await send(relay))[0].verdict is Verdict.ACCEPTED


async def test_no_from_the_ledger_leaves_without_the_dot(relay_of):
    async def play(peer):
        await peer.ready_for_message()
        await peer.hear_nothing_more()

    async def no():
        return False

    assert await send(await relay_of(play), no) == (None, 1)


async def test_what_breaks_while_claiming_leaves_without_the_dot(relay_of):
    async def play(peer):
        await peer.ready_for_message()
        await peer.hear_nothing_more()

    async def broken():
        raise RuntimeError

    relay = await relay_of(play)
    with pytest.raises(RuntimeError):
        await send(relay, broken)


@pytest.mark.parametrize("words", [b"", b"421 4.4.2 you took too long\r\n"], ids=["closes", "says 421"])
async def test_a_relay_that_leaves_while_we_claim_has_nothing_and_it_is_tried_again(relay_of, words):
    claiming, left = asyncio.Event(), asyncio.Event()

    async def play(peer):
        await peer.ready_for_message()
        await claiming.wait()
        peer.say(words)
        if not words:
            peer.writer.close()
        left.set()
        await peer.hear_nothing_more()

    async def slow():
        claiming.set()
        await left.wait()
        # Until the loop has heard it.
        await asyncio.sleep(0.05)
        return True

    judgement, _ = await send(await relay_of(play), slow)
    assert (judgement.verdict, judgement.code) == (Verdict.TRANSIENT, "connection_lost")


GARBAGE = [
    b"hello\r\n",
    b"\r\n",
    b"199 too low\r\n",
    b"600 too high\r\n",
    b"250+what\r\n",
    b"250-one\r\n251 other\r\n",
    b"250-again\r\n" * (LINES_MAX + 1),
    b"250 " + b"x" * LINE_BYTES_MAX + b"\r\n",
    b"x" * (2 * LINE_BYTES_MAX),
    b"\xff\x00\n",
]
IDS = [f"{number}" for number in range(len(GARBAGE))]


@pytest.mark.parametrize("garbage", GARBAGE, ids=IDS)
async def test_what_is_no_reply_counts_as_silence(relay_of, garbage):
    async def at_banner(peer):
        peer.say(garbage)
        await peer.hear_nothing_more()

    async def at_mail(peer):
        await peer.greeted(b"PIPELINING")
        await peer.hear(ENVELOPE)
        peer.say(garbage)
        await peer.hear_nothing_more()

    async def at_dot(peer):
        await peer.ready_for_message()
        await peer.hear(ON_THE_WIRE)
        peer.say(garbage)
        await peer.hear_nothing_more()

    relay = await relay_of(at_banner, at_mail, at_dot)
    told = [await send(relay) for _ in range(3)]
    assert [(judgement.verdict, judgement.code, asked) for judgement, asked in told] == [
        (Verdict.UNREACHABLE, "unreadable_reply", 0),
        (Verdict.TRANSIENT, "unreadable_reply", 0),
        (Verdict.IN_DOUBT, "unreadable_reply", 1),
    ]


@pytest.mark.parametrize("reply", [b"354 go on", b"221 bye", b"220 hello", b"251 elsewhere"])
async def test_a_reply_to_the_message_that_is_none_is_in_doubt(relay_of, reply):
    async def play(peer):
        await peer.ready_for_message()
        await peer.hear(ON_THE_WIRE)
        peer.say(reply + b"\r\n")
        await peer.hear_nothing_more()

    judgement, _ = await send(await relay_of(play))
    assert (judgement.verdict, judgement.code) == (Verdict.IN_DOUBT, "out_of_step")


async def test_a_reply_may_have_many_lines_and_come_octet_by_octet(relay_of):
    async def play(peer):
        await peer.greeted(b"SIZE", b"PIPELINING", b"8BITMIME")
        await peer.hear(ENVELOPE)
        for octet in b"250-one\r\n250-two\r\n250 three\r\n250\r\n354 go on\n":
            peer.say(bytes([octet]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250-2.0.0 first\r\n250 2.0.0 second\r\n")

    judgement, _ = await send(await relay_of(play))
    assert (judgement.verdict, judgement.smtp) == (Verdict.ACCEPTED, "250 2.0.0 first 2.0.0 second")


@pytest.mark.parametrize(
    ("banner", "code"), [(b"250 hello", "out_of_step"), (b"354 go on", "out_of_step"), (b"421 busy", "smtp_421")]
)
async def test_a_greeting_of_another_kind_is_no_attempt(relay_of, banner, code):
    async def play(peer):
        peer.say(banner + b"\r\n")
        await peer.hear_nothing_more()

    judgement, asked = await send(await relay_of(play))
    assert (judgement.verdict, judgement.code, asked) == (Verdict.UNREACHABLE, code, 0)


@pytest.mark.parametrize("goodbye", [b"421 4.4.2 idle for too long\r\n", b"250 nobody asked\r\n"])
async def test_an_idle_connection_on_which_something_was_said_is_replaced_without_a_word(relay_of, goodbye):
    idle, said = asyncio.Event(), asyncio.Event()

    async def play(peer):
        await peer.ready_for_message()
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 ok\r\n")
        await idle.wait()
        peer.say(goodbye)
        said.set()
        await peer.hear_nothing_more()

    relay = await relay_of(play, takes_all)
    assert (await send(relay))[0].verdict is Verdict.ACCEPTED
    idle.set()
    await said.wait()
    # Until the loop has heard it.
    await asyncio.sleep(0.05)
    assert (await send(relay))[0].verdict is Verdict.ACCEPTED


async def test_a_connection_that_is_taken_up_again_and_answers_nothing_is_replaced_once(relay_of):
    async def play(peer):
        await peer.ready_for_message()
        await peer.hear(ON_THE_WIRE)
        peer.say(b"250 ok\r\n")
        await peer.hear(ENVELOPE)

    relay = await relay_of(play, takes_all)
    assert (await send(relay))[0].verdict is Verdict.ACCEPTED
    assert (await send(relay))[0].verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("answers", "verdict", "asked"),
    [(b"", Verdict.TRANSIENT, 0), (b"250 1\r\n", Verdict.TRANSIENT, 0), (b"250 1\r\n250 2\r\n", Verdict.TRANSIENT, 0)],
)
async def test_silence_before_the_message_is_tried_again(relay_of, monkeypatch, answers, verdict, asked):
    monkeypatch.setattr(smtp, "COMMAND_S_MAX", 0.1)
    monkeypatch.setattr(transaction, "COMMAND_S_MAX", 0.1)

    async def play(peer):
        await peer.greeted(b"PIPELINING")
        await peer.hear(ENVELOPE)
        peer.say(answers)
        await peer.hear_nothing_more()

    judgement, times = await send(await relay_of(play))
    assert (judgement.verdict, judgement.code, times) == (verdict, "timeout", asked)


async def test_what_comes_in_clear_behind_starttls_is_not_taken_for_the_relays(relay_of):
    async def play(peer):
        await peer.greeted(b"STARTTLS")
        await peer.hear(b"STARTTLS\r\n")
        peer.say(b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n")
        await peer.hear_nothing_more()

    relay = await relay_of(play)
    relay.address = RelayAddress.parse(f"smtp://u:p@127.0.0.1:{relay.address.port}?starttls=required")
    judgement, asked = await send(relay)
    assert (judgement.verdict, asked) == (Verdict.UNREACHABLE, 0)


async def test_login_is_spoken_where_plain_is_not(relay_of):
    async def play(peer):
        await peer.greeted(b"AUTH LOGIN CRAM-MD5")
        await peer.hear(b"AUTH LOGIN\r\n")
        peer.say(b"334 VXNlcm5hbWU6\r\n")
        await peer.hear(b64encode(b"ana") + b"\r\n")
        peer.say(b"334 UGFzc3dvcmQ6\r\n")
        await peer.hear(b64encode("señal".encode()) + b"\r\n")
        peer.say(b"535 5.7.8 no\r\n")
        await peer.hear_nothing_more()

    judgement, _ = await send(await relay_of(play, user="ana:se%C3%B1al@"))
    assert (judgement.verdict, judgement.code) == (Verdict.CONFIGURATION, "smtp_535")


@pytest.mark.parametrize("offered", [b"AUTH CRAM-MD5", b"SIZE"])
async def test_a_login_that_cannot_be_made_needs_a_person(relay_of, offered):
    async def play(peer):
        await peer.greeted(offered)
        await peer.hear_nothing_more()

    judgement, _ = await send(await relay_of(play, user="ana:x@"))
    assert (judgement.verdict, judgement.code) == (Verdict.CONFIGURATION, "not_supported")
