"""Logs stay bounded, and only what the running start said is shown."""

import os

from infra.stack import child


def test_a_large_log_becomes_the_older_one_and_its_writer_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "LOG_BYTES_MAX", 10)
    log = tmp_path / "sender.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a line that is long\n")
        child.bound_log(log)
        writer.write(b"next\n")
    assert log.read_bytes() == b"next\n"
    assert (tmp_path / "sender.log.1").read_bytes() == b"a line that is long\n"


def test_a_log_that_is_not_there_stops_nothing(tmp_path):
    child.bound_log(tmp_path / "none.log")
    assert child.log_tail(tmp_path / "none.log") == ""


def test_the_tail_begins_where_the_last_start_did(tmp_path):
    log = tmp_path / "x.log"
    log.write_bytes(b"before\nafter 1\nafter 2\n")
    assert child.log_tail(log, start_bytes=7) == "after 1\nafter 2"
    assert child.log_tail(log, 1) == "after 2"


def test_the_mark_of_settings_gives_none_of_them_away(tmp_path):
    def recipe(**settings):
        return child.Recipe(
            name="x",
            argv=("x",),
            program=tmp_path,
            folder=tmp_path,
            log=tmp_path / "log",
            environment=os.environ,
            ready=lambda: True,
            ports={},
            settings=settings,
        )

    assert recipe(a="1", b="2").settings_mark() == recipe(b="2", a="1").settings_mark()
    assert recipe(a="1").settings_mark() != recipe(a="2").settings_mark()
    assert "secret" not in recipe(a="secret").settings_mark()
