"""The store: what was kept is found again, also after a death in the middle."""

import errno
import hashlib
import os
from dataclasses import asdict

import pytest

from infra.mailbox import store as store_module
from infra.mailbox.store import MailStore, Query, StoreFullError
from schemas.errors import ConfigurationError


def mail(number: int, notification: str | None = None) -> bytes:
    extra = f"X-Notification-Id: {notification}\r\n" if notification else ""
    return f"Message-ID: <{number}@x>\r\n{extra}Subject: mail {number}\r\n\r\nbody {number}\r\n".encode()


@pytest.fixture
def store(tmp_path):
    opened = MailStore(tmp_path)
    yield opened
    opened.close()


def test_a_mail_is_kept_as_it_came(store):
    assert store.append("from@x", ["to@x", "also@x"], mail(1, "n1")) == 1
    assert store.raw(1) == mail(1, "n1")
    summary = asdict(store.summary(1))
    assert summary.pop("received_at").endswith("+00:00")
    assert summary == {
        "n": 1,
        "message_id": "<1@x>",
        "notification_id": "n1",
        "mail_from": "from@x",
        "rcpt_to": ["to@x", "also@x"],
        "subject": "mail 1",
        "size_bytes": len(mail(1, "n1")),
        "sha256": hashlib.sha256(mail(1, "n1")).hexdigest(),
    }


@pytest.mark.parametrize("n", [0, -1, 2])
def test_there_is_no_other_mail(store, n):
    store.append("from@x", ["to@x"], mail(1))
    assert store.raw(n) is None
    assert store.summary(n) is None


def test_the_newest_come_first_and_the_limit_holds(store):
    for number in range(5):
        store.append("from@x", ["to@x"], mail(number))
    assert [found.n for found in store.find(Query(limit=2))] == [5, 4]


def test_mails_are_found_by_their_keys(store):
    store.append("from@x", ["Ana@example.com"], mail(1, "n1"))
    store.append("from@x", ["eva@example.com", "bob@example.com"], mail(2, "n2"))

    def found(**keys: str) -> list[int]:
        return [each.n for each in store.find(Query(**keys))]

    assert found(to="ana@EXAMPLE.com") == [1]
    assert found(to="na@example.com") == []
    assert found(search="VA@ex") == [2]
    assert found(search="N1") == [1]
    assert found(to="bob@example.com") == [2]
    assert found(message_id="<1@x>") == [1]
    assert found(message_id="1@x") == [1]
    assert found(notification_id="n2") == [2]
    assert found(notification_id="n2", to="ana@example.com") == []


def test_copies_are_counted(store):
    for number in (1, 2, 1, 1):
        store.append("from@x", ["to@x"], mail(number, f"n{number}"))
    store.append("from@x", ["to@x"], b"Subject: anonymous\r\n\r\n")
    assert store.counts() == {"n1": 3, "n2": 1, "": 1}


def test_addresses_with_broken_bytes_can_be_shown(store):
    store.append("from@x", [b"\xff+a@x".decode("utf-8", "surrogateescape"), "josé@x"], mail(1))
    assert store.summary(1).rcpt_to == ["\ufffd+a@x", "josé@x"]


def test_everything_is_there_after_a_restart(tmp_path):
    before = MailStore(tmp_path)
    for number in range(3):
        before.append("from@x", ["to@x"], mail(number))
    shown = before.find(Query())
    before.close()
    after = MailStore(tmp_path)
    assert after.find(Query()) == shown
    assert after.append("from@x", ["to@x"], mail(3)) == 4
    assert [after.raw(n) for n in range(1, 5)] == [mail(number) for number in range(4)]
    after.close()


@pytest.mark.parametrize("torn", [b"", b"{", b'{"offset": 1, "mess'])
def test_a_death_between_the_writes_costs_only_what_was_not_acknowledged(tmp_path, torn):
    before = MailStore(tmp_path)
    before.append("from@x", ["to@x"], mail(1))
    before.close()
    with (tmp_path / "mails.raw").open("ab") as raw, (tmp_path / "mails.jsonl").open("ab") as lines:
        raw.write(b"half a mail")
        lines.write(torn)
    after = MailStore(tmp_path)
    assert len(after) == 1
    after.append("from@x", ["to@x"], mail(2))
    assert (after.raw(1), after.raw(2)) == (mail(1), mail(2))
    assert (tmp_path / "mails.raw").stat().st_size == len(mail(1) + mail(2))
    after.close()


def test_a_line_whose_mail_is_not_there_is_forgotten(tmp_path):
    before = MailStore(tmp_path)
    for number in (1, 2):
        before.append("from@x", ["to@x"], mail(number))
    before.close()
    os.truncate(tmp_path / "mails.raw", len(mail(1)) + 3)
    after = MailStore(tmp_path)
    assert len(after) == 1
    assert (tmp_path / "mails.raw").stat().st_size == len(mail(1))
    after.close()


def test_a_damaged_index_is_said_and_left_alone(tmp_path):
    (tmp_path / "mails.jsonl").write_bytes(b"not ours\n{}\n")
    with pytest.raises(ConfigurationError, match="damaged at byte 0"):
        MailStore(tmp_path)
    assert (tmp_path / "mails.jsonl").read_bytes() == b"not ours\n{}\n"


def test_a_folder_has_one_mailbox(store, tmp_path):
    with pytest.raises(ConfigurationError, match="another mailbox"):
        MailStore(tmp_path)


def test_an_emptied_store_begins_anew(store, tmp_path):
    store.append("from@x", ["to@x"], mail(1))
    assert store.clear() == 1
    assert store.find(Query()) == []
    assert store.append("from@x", ["to@x"], mail(2)) == 1
    assert store.raw(1) == mail(2)
    assert (tmp_path / "mails.raw").stat().st_size == len(mail(2))


def test_a_full_disk_keeps_nothing_of_the_mail(store, tmp_path, monkeypatch):
    store.append("from@x", ["to@x"], mail(1))
    write, calls = os.write, []

    def fill_up(file: int, piece: bytes) -> int:
        calls.append(piece)
        if len(calls) == 1:
            return write(file, piece[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fill_up)
        with pytest.raises(OSError, match="No space"):
            store.append("from@x", ["to@x"], mail(2))
    assert (tmp_path / "mails.raw").stat().st_size == len(mail(1))
    assert store.append("from@x", ["to@x"], mail(3)) == 2
    assert store.raw(2) == mail(3)


def test_an_index_that_cannot_be_written_keeps_nothing_of_the_mail(store, tmp_path, monkeypatch):
    write, calls = os.write, []

    def refuse_second(file: int, piece: bytes) -> int:
        calls.append(piece)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, piece)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refuse_second)
        with pytest.raises(OSError, match="No space"):
            store.append("from@x", ["to@x"], mail(1))
    assert (tmp_path / "mails.raw").stat().st_size == 0
    assert len(store) == 0


def test_a_full_store_refuses(store, monkeypatch):
    monkeypatch.setattr(store_module, "MAILS_MAX", 1)
    store.append("from@x", ["to@x"], mail(1))
    with pytest.raises(StoreFullError):
        store.append("from@x", ["to@x"], mail(2))
    assert len(store) == 1
