"""The mailbox as a process: how it ends, what a kill -9 leaves, and what it says when it cannot start."""

import asyncio
import contextlib
import hashlib
import subprocess
import sys

import aiosmtplib
import pytest

from infra.mailbox.store import MailStore, Query
from tests.integration.mailbox.client import SENDER, client_of, send
from tests.processes import ROOT, eventually


async def send_until_killed(port: int, name: str, acknowledged: list[str], enough: asyncio.Event) -> None:
    async with client_of(port) as client:
        with contextlib.suppress(aiosmtplib.SMTPServerDisconnected):
            for number in range(1_000_000):
                key = f"{name}-{number}"
                raw = f"X-Notification-Id: {key}\r\n\r\n{'x' * 50}\r\n".encode()
                await client.sendmail(SENDER, ["ana@example.org"], raw)
                acknowledged.append(key)
                if len(acknowledged) >= 500:
                    enough.set()


async def test_a_kill_loses_nothing_that_was_acknowledged(start_mailbox):
    process = start_mailbox()
    acknowledged: list[str] = []
    enough = asyncio.Event()
    senders = [
        asyncio.create_task(send_until_killed(process.smtp_port, f"s{number}", acknowledged, enough))
        for number in range(8)
    ]
    await asyncio.wait_for(enough.wait(), 60)
    process.kill()
    await asyncio.gather(*senders)
    with contextlib.closing(MailStore(process.home / "mails")) as store:
        kept = store.counts()
        assert set(acknowledged) <= kept.keys()
        assert set(kept.values()) == {1}
        assert len(kept) <= len(acknowledged) + len(senders), "at most one mail of each connection was in the air"
        for summary in store.find(Query(limit=10_000)):
            assert hashlib.sha256(store.raw(summary.n)).hexdigest() == summary.sha256
    process.start()
    assert process.counts() == kept


async def test_sigterm_ends_it_whatever_hangs(start_mailbox):
    process = start_mailbox()
    async with client_of(process.smtp_port) as client:
        hanging = asyncio.create_task(send(client, "ana+hangdot@example.org"))
        await asyncio.to_thread(eventually, process.messages)
        await asyncio.to_thread(process.stop)
        assert process.process.returncode == 0
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await hanging


@pytest.mark.parametrize("kind", ["starttls", "tls"])
async def test_the_process_speaks_tls_in_its_own_event_loop_too(start_mailbox, key_pair, trust, kind):
    login = ("--user", "relevo", "--password", "secret")
    process = start_mailbox(f"--{kind}", str(key_pair.certificate), str(key_pair.key), *login)
    how = {"use_tls": kind == "tls", "start_tls": kind == "starttls", "tls_context": trust}
    async with client_of(process.smtp_port, **how) as client:
        await client.login("relevo", "secret")
        await send(client, "ana@example.org")
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await send(client, "ana+dropdot@example.org")
    assert len(process.messages()) == 2
    process.stop()
    assert process.process.returncode == 0


def run_to_its_end(folder, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.mailbox", "--dir", str(folder), "--smtp-port", "0", "--http-port", "0"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_certificate_that_cannot_be_read_is_said(tmp_path):
    ended = run_to_its_end(tmp_path, "--tls", "none.pem", "none.pem")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr.startswith("mailbox: cannot use none.pem with none.pem: ")


def test_a_folder_that_another_mailbox_uses_is_said(start_mailbox):
    ended = run_to_its_end(start_mailbox().home / "mails")
    assert ended.returncode == 78
    assert ended.stderr.startswith("mailbox: another mailbox already uses ")


def test_a_port_that_is_taken_is_said(start_mailbox, tmp_path):
    ended = run_to_its_end(tmp_path / "other", "--smtp-port", str(start_mailbox().smtp_port))
    assert ended.returncode == 78
    assert "address already in use" in ended.stderr
