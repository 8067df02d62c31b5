"""
What the tests of the mailbox ask for.

own_mailbox      a mailbox in the test's own event loop, whose store and script can be looked at; http speaks to it
start_mailbox    starts one as a process
authority        issues the certificate of key_pair; trust is the context of a client that trusts it
"""

import ssl

import aiohttp
import pytest
import trustme

from infra.mailbox.server import KeyPair, MailboxOptions, run_mailbox
from tests.integration.mailbox.client import HOST
from tests.relevo import MailboxProcess


@pytest.fixture
async def own_mailbox(tmp_path):
    async with run_mailbox(MailboxOptions(folder=tmp_path / "mails")) as running:
        yield running


@pytest.fixture
async def http(own_mailbox):
    async with aiohttp.ClientSession(f"http://{HOST}:{own_mailbox.http_port}") as session:
        yield session


@pytest.fixture
def start_mailbox(tmp_path):
    started = []

    def start(*options: str) -> MailboxProcess:
        process = MailboxProcess(tmp_path, *options)
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def key_pair(authority, tmp_path_factory) -> KeyPair:
    folder = tmp_path_factory.mktemp("tls")
    pair = KeyPair(folder / "certificate.pem", folder / "key.pem")
    issued = authority.issue_cert("localhost", HOST)
    issued.private_key_pem.write_to_path(pair.key)
    for certificate in issued.cert_chain_pems:
        certificate.write_to_path(pair.certificate, append=True)
    return pair


@pytest.fixture
def trust(authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
