"""A relay that takes the message and never answers: at most one mail, and nobody guesses what became of it."""

import asyncio

from infra.settings import RelayAddress
from sender import transaction
from sender.compose import Composer
from sender.replies import Verdict
from sender.smtp import Relay
from sender.transaction import Mail
from tests.builders import ACCEPTED_AT, make_notification
from tests.relevo import address


async def test_no_answer_after_the_message_is_in_doubt_and_the_next_one_is_not_in_its_way(mailbox, monkeypatch):
    monkeypatch.setattr(transaction, "DOT_S_MAX", 0.5)
    relay = Relay(RelayAddress.parse(mailbox.smtp_url), connections_max=1, ca_file=None)

    async def send(to):
        message = Composer("relevo@example.org", "").compose(make_notification(to=to), ACCEPTED_AT)

        async def go_on():
            return True

        async with asyncio.timeout(10):
            return await relay.send(Mail("relevo@example.org", to, message, smtputf8=False), go_on)

    hanging, next_one = address("hangdot"), address()
    judgement = await send(hanging)
    assert (judgement.verdict, judgement.code) == (Verdict.IN_DOUBT, "timeout")
    assert len(mailbox.messages(to=hanging)) == 1, "it has the mail: one more would be one too many"
    assert (await send(next_one)).verdict is Verdict.ACCEPTED
    await relay.close()
