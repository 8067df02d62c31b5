"""
Run the mailbox as a process until SIGTERM or SIGINT; then it ends with 0.

What a person must mend first ends it at once with a sentence: with 2 when it is the command line, with 78 (EX_CONFIG of
sysexits.h) when it is a certificate, the folder or a port.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import uvloop

from infra.mailbox.server import LOOPBACK, KeyPair, MailboxOptions, run_mailbox
from infra.mailbox.smtp import Login
from schemas.errors import ConfigurationError


def parse_options(arguments: list[str]) -> MailboxOptions:
    """
    Read the command line.

    Raises:
        SystemExit: 2 after an explanation, as argparse does; 0 after --help.
    """
    parser = argparse.ArgumentParser("python -m infra.mailbox", description="An SMTP server that keeps what it gets.")
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="folder that keeps the mails")
    parser.add_argument("--smtp-port", type=_port, default=1025, metavar="N", help="0 takes a free one (default: 1025)")
    parser.add_argument("--http-port", type=_port, default=8025, metavar="N", help="0 takes a free one (default: 8025)")
    parser.add_argument("--host", default=LOOPBACK, help="address of both ports (default: %(default)s)")
    tls = parser.add_mutually_exclusive_group()
    tls.add_argument("--starttls", nargs=2, type=Path, metavar=("CERT", "KEY"), help="offer STARTTLS; PEM files")
    tls.add_argument("--tls", nargs=2, type=Path, metavar=("CERT", "KEY"), help="TLS from the first byte; PEM files")
    parser.add_argument("--user", help="require a login with this name")
    parser.add_argument("--password", metavar="PW", help="and this password")
    given = parser.parse_args(arguments)
    if (given.user is None) != (given.password is None):
        parser.error("--user and --password go together")
    return MailboxOptions(
        folder=given.dir,
        host=given.host,
        smtp_port=given.smtp_port,
        http_port=given.http_port,
        starttls=KeyPair(*given.starttls) if given.starttls else None,
        tls=KeyPair(*given.tls) if given.tls else None,
        login=None if given.user is None else Login(given.user, given.password),
    )


def main() -> int:
    """Run it. Returns the exit code."""
    options = parse_options(sys.argv[1:])
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run_until_signal(options))
    except (ConfigurationError, OSError) as error:
        print(f"mailbox: {error}", file=sys.stderr)
        return os.EX_CONFIG
    return 0


async def _run_until_signal(options: MailboxOptions) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with run_mailbox(options) as mailbox:
        smtp, http = f"{options.host}:{mailbox.smtp_port}", f"{options.host}:{mailbox.http_port}"
        print(f"mailbox: takes mails at {smtp}, shows them at http://{http}/", flush=True)
        await stop.wait()


def _port(text: str) -> int:
    # Ours to check: the event loop answers a number out of range with an OverflowError.
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: 0 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
