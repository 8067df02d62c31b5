"""stack.json is always whole, and says nothing that is not so."""

import json
import os

import pytest

from infra.stack import files
from infra.stack.home import Home
from infra.stack.identity import Identity
from infra.stack.state import StackState, identity_fields, identity_of, read_state


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_a_write_that_fails_half_way_leaves_the_old_file(home, monkeypatch):
    files.write_whole(home.stack_file, "old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(home.stack_file, "new")
    assert home.stack_file.read_text() == "old"
    assert list(home.root.iterdir()) == [home.stack_file]


def test_a_full_disk_does_not_end_the_keeper(home, monkeypatch):
    state = StackState(home)
    monkeypatch.setattr(files.os, "fsync", lambda _descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    state.report("kafka", state="running")
    assert state.entry("kafka") == {"state": "running"}


def test_what_one_keeper_wrote_the_next_one_reads(home):
    me = Identity.of(os.getpid())
    StackState(home).report("kafka", state="running", **identity_fields(me))
    assert identity_of(StackState(home).entry("kafka")) == me


def test_an_entry_without_a_process_names_none(home):
    assert identity_of({"pid": None, "create_time": None}) is None
    assert identity_of({"pid": 4711}) is None, "a pid alone may be anybody's"


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps("x")])
def test_a_file_that_somebody_broke_counts_as_none(home, text):
    home.stack_file.write_text(text)
    assert read_state(home) == {}
