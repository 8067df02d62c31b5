"""What goes over the wire, and how replies are read from it, without a socket."""

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sender.conversation import LINE_BYTES_MAX, LINES_MAX, Conversation, ConversationLostError, UnreadableReplyError
from sender.transaction import on_the_wire


class Transport(asyncio.Transport):
    def __init__(self):
        self.aborted = False

    def is_closing(self):
        return self.aborted

    def abort(self):
        self.aborted = True


def replies_to(chunks):
    """Return the replies that a conversation reads from *chunks*, and what came after them."""

    async def read():
        conversation = Conversation()
        conversation.connection_made(Transport())
        for chunk in chunks:
            conversation.data_received(chunk)
        conversation.connection_lost(None)
        found = []
        while True:
            try:
                found.append(await conversation.reply(1.0))
            except (ConversationLostError, UnreadableReplyError) as end:
                return found, type(end)

    return asyncio.run(read())


def cut(data, places):
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


PIECES = st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\r", b"\n", b"..", b"\r\n.\r\n", b"QUIT"]), max_size=30)


@given(PIECES.map(b"".join))
def test_the_only_dot_that_ends_a_message_is_ours(message):
    wire = on_the_wire(message)
    assert wire.endswith(b".\r\n")
    assert b"\n" not in wire.replace(b"\r\n", b"")
    assert b"\r" not in wire.replace(b"\r\n", b"")
    *lines, dot, empty = wire.split(b"\r\n")
    assert (dot, empty) == (b".", b"")
    assert b"." not in lines
    # What the other side gets back are the lines that were sent.
    got = [line[1:] if line.startswith(b".") else line for line in lines]
    assert got == (message.splitlines() or [b""])


WORDS = st.binary(max_size=40).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b""))
REPLIES = st.lists(st.tuples(st.integers(200, 599), st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=5)


@given(REPLIES, st.lists(st.integers(0, 1000), max_size=8))
def test_replies_are_the_same_however_they_are_cut(replies, places):
    data = b"".join(
        b"".join(b"%d-%s\r\n" % (code, line) for line in lines[:-1]) + b"%d %s\r\n" % (code, lines[-1])
        for code, lines in replies
    )
    found, _ = replies_to(cut(data, places))
    assert [(reply.code, reply.text) for reply in found] == [
        (code, b"\n".join(lines).decode("utf-8", "replace")) for code, lines in replies
    ]


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000), max_size=4))
def test_no_octets_break_it(data, places):
    found, end = replies_to(cut(data, places))
    assert all(200 <= reply.code <= 599 for reply in found)
    assert end in {ConversationLostError, UnreadableReplyError}


def test_what_never_ends_is_cut_off():
    assert replies_to([b"2" * 1000] * (LINE_BYTES_MAX // 1000 + 1)) == ([], UnreadableReplyError)
    assert replies_to([b"250-x\r\n"] * (LINES_MAX + 1)) == ([], UnreadableReplyError)
