"""The command line."""

from pathlib import Path

import pytest

from infra.mailbox.__main__ import parse_options
from infra.mailbox.server import KeyPair, MailboxOptions
from infra.mailbox.smtp import Login

PAIR = KeyPair(Path("/c.pem"), Path("/k.pem"))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("", MailboxOptions(folder=Path("/mails"), smtp_port=1025, http_port=8025)),
        (
            "--host 0.0.0.0 --smtp-port 0 --http-port 65535 --tls /c.pem /k.pem",
            MailboxOptions(folder=Path("/mails"), host="0.0.0.0", smtp_port=0, http_port=65535, tls=PAIR),
        ),
        (
            "--smtp-port 1 --http-port 2 --starttls /c.pem /k.pem --user ana --password pw",
            MailboxOptions(folder=Path("/mails"), smtp_port=1, http_port=2, starttls=PAIR, login=Login("ana", "pw")),
        ),
    ],
)
def test_each_option_is_read(arguments, options):
    assert parse_options(["--dir", "/mails", *arguments.split()]) == options


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--starttls c k --tls c k", "not allowed with"),
        ("--smtp-port 65536", "not a port"),
        ("--http-port -1", "not a port"),
        ("--user ana", "go together"),
        ("--password pw", "go together"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_reason(capsys, arguments, reason):
    with pytest.raises(SystemExit) as ended:
        parse_options(["--dir", "/mails", *arguments.split()])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
