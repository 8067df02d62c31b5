"""The relay over real SMTP: encryption, login, reuse, and what every kind of refusal and silence is taken for."""

import asyncio

import pytest
import trustme

from infra.settings import RelayAddress
from sender.compose import Composer, needs_smtputf8
from sender.replies import Verdict
from sender.smtp import Relay
from sender.transaction import Mail
from tests.builders import ACCEPTED_AT, make_notification
from tests.relevo import MailboxProcess, address

SENDER = "relevo@example.org"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def protected(request, certificate, tmp_path_factory):
    """Return a function that starts a mailbox with options; all of them end with the module."""
    running = []

    def start(*options):
        made = MailboxProcess(tmp_path_factory.mktemp("mailbox"), *options)
        made.start()
        running.append(made)
        return made

    yield start
    for each in running:
        each.stop()


@pytest.fixture(scope="module")
def starttls(protected, certificate):
    pair = (str(certificate / "cert.pem"), str(certificate / "key.pem"))
    return protected("--starttls", *pair, "--user", "relevo", "--password", "s3cret/@")


@pytest.fixture(scope="module")
def implicit(protected, certificate):
    return protected("--tls", str(certificate / "cert.pem"), str(certificate / "key.pem"))


@pytest.fixture
async def relay_to(certificate):
    """Return a function: URL -> relay that trusts the authority of these tests."""
    relays = []

    def make(url, *, connections_max=2, trusting=True):
        made = Relay(
            RelayAddress.parse(url),
            connections_max=connections_max,
            ca_file=str(certificate / "ca.pem") if trusting else None,
        )
        relays.append(made)
        return made

    yield make
    for each in relays:
        await each.close()


def mail_to(recipient):
    notification = make_notification(to=recipient)
    message = Composer(SENDER, "").compose(notification, ACCEPTED_AT)
    return Mail(SENDER, recipient, message, needs_smtputf8(notification))


async def send(relay, recipient, *, go_on=True):
    asked = []

    async def before_message():
        asked.append(recipient)
        return go_on

    async with asyncio.timeout(20):
        judgement = await relay.send(mail_to(recipient), before_message)
    return judgement, len(asked)


async def test_starttls_with_login_delivers(starttls, relay_to):
    relay = relay_to(f"smtp://relevo:s3cret%2F%40@127.0.0.1:{starttls.smtp_port}?starttls=required")
    to = address()
    judgement, _ = await send(relay, to)
    assert (judgement.verdict, judgement.smtp_code) == (Verdict.ACCEPTED, 250)
    assert len(starttls.messages(to=to)) == 1


async def test_implicit_tls_delivers(implicit, relay_to):
    to = address()
    judgement, _ = await send(relay_to(f"smtps://127.0.0.1:{implicit.smtp_port}"), to)
    assert judgement.verdict is Verdict.ACCEPTED
    assert len(implicit.messages(to=to)) == 1


@pytest.mark.parametrize("kind", ["starttls", "implicit"])
async def test_a_certificate_of_a_stranger_stops_the_channel_and_sends_nothing(kind, request, relay_to):
    mailbox = request.getfixturevalue(kind)
    url = {
        "starttls": f"smtp://relevo:s3cret%2F%40@127.0.0.1:{mailbox.smtp_port}?starttls=required",
        "implicit": f"smtps://127.0.0.1:{mailbox.smtp_port}",
    }[kind]
    to = address()
    judgement, asked = await send(relay_to(url, trusting=False), to)
    assert (judgement.verdict, judgement.code) == (Verdict.CONFIGURATION, "tls_failure")
    assert asked == 0
    assert mailbox.messages(to=to) == []


async def test_a_wrong_password_is_no_bounce(starttls, relay_to):
    relay = relay_to(f"smtp://relevo:wrong@127.0.0.1:{starttls.smtp_port}?starttls=required")
    judgement, asked = await send(relay, address())
    assert (judgement.verdict, judgement.smtp_code) == (Verdict.CONFIGURATION, 535)
    assert asked == 0


async def test_a_relay_without_starttls_gets_no_mail_in_clear(mailbox, relay_to):
    to = address()
    judgement, asked = await send(relay_to(f"smtp://127.0.0.1:{mailbox.smtp_port}?starttls=required"), to)
    assert judgement.verdict is Verdict.CONFIGURATION
    assert asked == 0
    assert mailbox.messages(to=to) == []


@pytest.mark.parametrize(
    ("scenario", "verdict", "code", "asked"),
    [
        ("451x1", Verdict.TRANSIENT, "smtp_451", 0),
        ("550", Verdict.PERMANENT, "smtp_550", 0),
        ("421", Verdict.TRANSIENT, "smtp_421", 0),
        ("dot451x1", Verdict.TRANSIENT, "smtp_451", 1),
        ("dot550", Verdict.PERMANENT, "smtp_550", 1),
        ("dropdata", Verdict.IN_DOUBT, "connection_lost", 1),
        ("dropdot", Verdict.IN_DOUBT, "connection_lost", 1),
    ],
)
async def test_what_happens_at_the_relay_is_taken_for(mailbox, relay_to, scenario, verdict, code, asked):
    relay = relay_to(mailbox.smtp_url)
    judgement, times = await send(relay, address(scenario))
    assert (judgement.verdict, judgement.code, times) == (verdict, code, asked)
    # Whatever it was, the next transaction finds the relay in order.
    judgement, _ = await send(relay, address())
    assert judgement.verdict is Verdict.ACCEPTED


async def test_nobody_there_is_no_attempt(relay_to):
    judgement, asked = await send(relay_to("smtp://127.0.0.1:1"), address())
    assert (judgement.verdict, asked) == (Verdict.UNREACHABLE, 0)


async def test_no_from_the_ledger_leaves_no_mail_and_a_good_connection(mailbox, relay_to):
    relay = relay_to(mailbox.smtp_url)
    to = address()
    judgement, asked = await send(relay, to, go_on=False)
    assert (judgement, asked) == (None, 1)
    assert mailbox.messages(to=to) == []
    assert (await send(relay, address()))[0].verdict is Verdict.ACCEPTED


async def test_a_connection_that_died_while_idle_is_replaced_without_a_word(tmp_path, relay_to):
    restarted = MailboxProcess(tmp_path)
    restarted.start()
    try:
        relay = relay_to(restarted.smtp_url)
        assert (await send(relay, address()))[0].verdict is Verdict.ACCEPTED
        restarted.kill()
        restarted.start()
        assert (await send(relay, address()))[0].verdict is Verdict.ACCEPTED
    finally:
        restarted.stop()


async def test_lone_line_ends_and_dots_smuggle_nothing(mailbox, relay_to):
    to = address()
    body = "a\n.\nMAIL FROM:<evil@example.org>\r\n.\r\nb\n..c"
    notification = make_notification(to=to, body=body)
    message = Composer(SENDER, "").compose(notification, ACCEPTED_AT)
    relay = relay_to(mailbox.smtp_url)

    async def go():
        return True

    judgement = await relay.send(Mail(SENDER, to, message, smtputf8=False), go)
    assert judgement.verdict is Verdict.ACCEPTED
    [kept] = mailbox.messages(to=to)
    assert mailbox.message(kept["n"])["text"].replace("\r\n", "\n").rstrip("\n") == body.replace("\r\n", "\n")


async def test_the_probe_tells_the_same(mailbox, relay_to):
    assert (await relay_to(mailbox.smtp_url).probe(SENDER)).verdict is Verdict.ACCEPTED
    assert (await relay_to("smtp://127.0.0.1:1").probe(SENDER)).verdict is Verdict.UNREACHABLE
