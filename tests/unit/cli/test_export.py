"""Exports: which columns, which files, and what is folded away."""

import csv
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.cli import export_sources
from infra.cli.__main__ import run_relevo
from infra.cli.export_columns import COLUMNS, row_of, value_of
from infra.cli.export_files import Format, open_rows
from infra.cli.export_sources import TopicSource, wanted
from infra.cli.output import CommandError, Exit
from infra.cli.reading import Read
from infra.contract import FOLDER
from infra.examples.duckdb_outcomes import outcomes
from schemas.records import encode_result_record
from schemas.states import State
from schemas.topics import RESULTS
from tests.processes import ROOT
from tests.results import AT, make_change, make_rejection

NAMES = [column.name for column in COLUMNS]


def value(result):
    return encode_result_record(result)[1]


def row(result):
    return row_of(value(result))


# -- columns -----------------------------------------------------------------------------------------------------------


def test_every_field_of_the_contract_has_its_column():
    schema = json.loads((FOLDER / "notifications.results.json").read_text())
    fields = set(schema["properties"]) - {"schema", "reason", "source"}
    assert fields <= set(NAMES)
    assert {"reason_class", "reason_code", "reason_smtp"} <= set(NAMES)
    assert {f"source_{name}" for name in ("door", "partition", "offset", "index")} <= set(NAMES)


def test_the_columns_stand_as_the_readme_has_them():
    # Who reads by place relies on it: a new column goes to the end.
    told = " ".join((ROOT / "README.md").read_text().split())
    assert ", ".join(f"`{name}`" for name in NAMES) in told


def test_a_change_and_a_rejection_are_rows():
    change = make_change(metadata={"order": 7}, producer="billing")
    found = dict(zip(NAMES, row(change), strict=True))
    assert found["id"] == str(change.id)
    assert (found["reason_class"], found["reason_code"], found["reason_smtp"]) == ("ok", "sent", "250 ok")
    assert (found["source_door"], found["source_partition"], found["source_offset"]) == ("kafka", 3, 912)
    assert (found["metadata"], found["producer"], found["occurred_at"]) == ('{"order":7}', "billing", AT)
    assert (found["errors"], found["replay_of"], found["test"]) == (None, None, False)
    assert json.loads(value_of(row(make_rejection()), "errors"))[0]["pointer"] == "/to"


@pytest.mark.parametrize("changes", [{"seq": "2"}, {"terminal": 1}, {"seq": 2**70}, {"reason": 3}, {"accepted_at": 1}])
def test_what_does_not_fit_a_column_is_no_result(changes):
    odd = json.dumps(json.loads(value(make_change())) | changes).encode()
    with pytest.raises(ValueError, match="is"):
        row_of(odd)


# -- files -------------------------------------------------------------------------------------------------------------


def test_csv_and_parquet_hold_the_same(tmp_path):
    rows = [row(make_change(metadata={"a": 'comma, "quote"'})), row(make_rejection())]
    for form in Format:
        with open_rows(tmp_path / f"out.{form}", form) as file:
            file.write(rows[:1])
            file.write(rows[1:])
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == NAMES
    assert [tuple(each.values()) for each in table.to_pylist()] == rows
    with (tmp_path / "out.csv").open(newline="") as lines:
        [head, *read] = csv.reader(lines)
    assert head == NAMES
    assert [line[NAMES.index("metadata")] for line in read] == ['{"a":"comma, \\"quote\\""}', ""]
    assert [line[NAMES.index("occurred_at")] for line in read] == ["2025-01-24T12:30:00.000Z"] * 2
    assert [line[NAMES.index("terminal")] for line in read] == ["true", "true"]


@pytest.mark.parametrize("form", Format)
def test_a_file_that_is_not_whole_is_not_there_and_the_one_before_stays(tmp_path, form):
    path = tmp_path / "out"
    path.write_text("before")

    class InterruptedHereError(Exception):
        pass

    def write():
        with open_rows(path, form) as file:
            file.write([row(make_change())])
            raise InterruptedHereError

    with pytest.raises(InterruptedHereError):
        write()
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    with (
        pytest.raises(CommandError, match="cannot be written") as refused,
        open_rows(tmp_path / "no" / "x", Format.CSV),
    ):
        pass
    assert refused.value.code == "output_refused"


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CommandError) as refused, open_rows(tmp_path / "x.parquet", Format.PARQUET):
        pass
    assert (refused.value.exit_code, refused.value.code) == (Exit.CONFIGURATION, "not_installed")
    assert "relevo[export]" in refused.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_name_that_says_no_format_needs_the_option(tmp_path, capsys):
    assert run_relevo(["export", "-o", str(tmp_path / "x.txt"), "--json"]) == Exit.USAGE
    assert "--format" in capsys.readouterr().out
    assert run_relevo(["export", "-o", str(tmp_path / "x.csv"), "--since", "today", "--json"]) == Exit.USAGE


# -- the topic ---------------------------------------------------------------------------------------------------------


class Reader:
    """The topic as it was when the export began, and what came later."""

    def __init__(self, values, end):
        self.bounds = {0: (0, end), 1: (4, 4)}
        self._batches = [values[begin : begin + 3] for begin in range(0, len(values), 3)]
        self._offset = 0

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def read(self):
        found = []
        for each in self._batches.pop(0) if self._batches else ():
            found.append(Read(RESULTS.name, 0, self._offset, None, None, each, ()))
            self._offset += 1
        return found


def from_topic(monkeypatch, values, *, end=None, latest=False):
    reader = Reader(values, len(values) if end is None else end)
    monkeypatch.setattr(export_sources, "TopicReader", lambda *_args, **_options: reader)
    source, told = TopicSource("nowhere", latest=latest), []
    rows = [each for some in source.rows(lambda *progress: told.append(progress)) for each in some]
    return rows, source, told


def test_every_event_up_to_where_the_topic_ended_is_there_once(monkeypatch):
    first, second, late = make_change(seq=1, status=State.QUEUED), make_change(), make_change()
    values = [value(first), value(second), b"?", value(first), value(make_rejection()), value(late)]
    rows, source, told = from_topic(monkeypatch, values, end=5)
    assert [value_of(each, "status") for each in rows] == ["queued", "sent", "rejected"]
    assert (source.read, source.unreadable, told[-1]) == (5, 1, (5, 5))


def test_of_each_notification_the_latest_is_that_with_the_highest_seq(monkeypatch):
    changes = [make_change(seq=seq, id=make_change().id) for seq in (1, 2)]
    one = make_change(seq=3)
    older = make_change(seq=2, id=one.id, status=State.RETRYING)
    values = [value(each) for each in (*changes, one, older, make_rejection(), make_rejection(notification_id=one.id))]
    rows, _, _ = from_topic(monkeypatch, values, latest=True)
    assert {value_of(each, "id"): value_of(each, "seq") for each in rows} == {
        str(each.id): each.seq for each in (*changes, one)
    }


def test_a_topic_that_falls_silent_does_not_hold_it_for_ever(monkeypatch):
    monkeypatch.setattr(export_sources, "SILENT_S_MAX", 0.0)
    with pytest.raises(export_sources.TransientError, match="read to its end"):
        from_topic(monkeypatch, [value(make_change())], end=2)


def test_what_is_not_wanted_is_left_out():
    one = row(make_change(producer="billing"))
    assert wanted(since=AT, until=AT + timedelta(seconds=1), status="sent", producer="billing")(one)
    for changes in ({"since": AT + timedelta(seconds=1)}, {"until": AT}, {"status": "failed"}, {"producer": "shop"}):
        assert not wanted(**({"since": None, "until": None, "status": None, "producer": None} | changes))(one)


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_for_analysts_counts_what_the_export_wrote(tmp_path):
    file = tmp_path / "outcomes.parquet"
    later = datetime(2025, 1, 25, 0, 0, tzinfo=UTC)
    rows = []
    for number in range(1, 101):
        one = make_change(seq=3, occurred_at=AT + timedelta(milliseconds=number))
        rows += [row(one), row(make_change(id=one.id, seq=2, status=State.RETRYING))]
    rows += [
        row(make_change(status=State.BOUNCED, occurred_at=later)),
        row(make_rejection()),
        row(make_change(test=True)),
    ]
    with open_rows(file, Format.PARQUET) as written:
        written.write(rows)
    lasted_ms = int((later - AT).total_seconds() * 1000)
    assert outcomes(file) == [
        {"day": "2025-01-24", "status": "sent", "notifications": 100, "p50_ms": 50, "p99_ms": 99},
        {"day": "2025-01-25", "status": "bounced", "notifications": 1, "p50_ms": lasted_ms, "p99_ms": lasted_ms},
    ]


def test_the_example_says_when_it_was_given_something_else(tmp_path):
    with pytest.raises(CommandError, match="Parquet"):
        outcomes(Path(tmp_path / "nothing.parquet"))
