"""`relevo export` over a whole relevo: the topic and the ledger tell the same."""

import csv
from datetime import UTC, datetime
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from infra.cli import export_sources
from infra.cli.output import Exit
from infra.examples.duckdb_outcomes import outcomes
from infra.stack.ports import free_port
from tests.integration.cli.commands import Command
from tests.relevo import address


@pytest.fixture(scope="module")
def story(relevo):
    """What happened to a producer of this module alone."""
    producer = f"exports-{uuid4().hex[:8]}"
    ids = {}
    for to, status in ((address(), "sent"), (address("550"), "bounced"), ("sim+ok@simulator.invalid", "sent")):
        identity = str(uuid4())
        relevo.produce(
            {"id": identity, "to": to, "subject": "s", "body": "b", "producer": producer, "metadata": {"n": "1"}}
        )
        ids[identity] = status
    for identity, status in ids.items():
        relevo.wait_for(identity, status)
    return producer, ids


def told(relevo, producer):
    return {each["event_id"]: each for each in relevo.results() if each["producer"] == producer}


def test_the_topic_gives_every_event_once(live, relevo, story, tmp_path):
    producer, _ = story
    file = tmp_path / "all.csv"
    said = live.json("export", "-o", str(file), "--producer", producer)
    expected = told(relevo, producer)
    with file.open(newline="") as lines:
        rows = {row["event_id"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == expected.keys()
    assert {rows[each]["status"] for each in rows} == {"queued", "sent", "bounced"}
    for each, row in rows.items():
        assert (row["id"], row["seq"], row["occurred_at"]) == (
            expected[each]["id"], str(expected[each]["seq"]), expected[each]["occurred_at"],
        )  # fmt: skip
    assert said | {"read": 0, "bytes": 0} == {
        "file": str(file), "format": "csv", "from": "topic", "rows": len(rows), "read": 0, "unreadable": 0, "bytes": 0,
        "columns": list(next(iter(rows.values()))),
    }  # fmt: skip


def test_the_latest_of_the_topic_and_the_ledger_are_the_same(live, relevo, story, tmp_path, monkeypatch):
    # Several pages of the ledger.
    monkeypatch.setattr(export_sources, "ROWS_MAX", 2)
    producer, ids = story
    files = tmp_path / "topic.parquet", tmp_path / "ledger.parquet"
    live.run("export", "-o", str(files[0]), "--latest", "--producer", producer)
    live.run("export", "-o", str(files[1]), "--from", "ledger", "--producer", producer)
    tables = [sorted(pq.read_table(file).to_pylist(), key=lambda row: row["id"]) for file in files]
    assert tables[0] == tables[1]
    assert {row["id"]: row["status"] for row in tables[0]} == ids
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    # The simulator's are left out.
    counted = [(row["status"], row["notifications"]) for row in outcomes(files[0]) if row["day"] <= today]
    assert counted == [("bounced", 1), ("sent", 1)]


def test_status_and_time_narrow_it(live, story, tmp_path):
    producer, _ = story
    file = tmp_path / "some.csv"
    options = ("export", "-o", str(file), "--producer", producer)
    assert live.json(*options, "--status", "bounced")["rows"] == 1
    assert live.json(*options, "--until", "2020-01-01T00:00:00Z")["rows"] == 0
    assert live.json(*options, "--from", "ledger", "--since", "2020-01-01T00:00:00Z")["rows"] == 3


def test_where_no_server_answers_there_is_no_file(tmp_path):
    away = {
        "RELEVO_HOME": str(tmp_path / "home"),
        "RELEVO_KAFKA_BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "RELEVO_POSTGRES_DSN": f"postgresql://relevo@127.0.0.1:{free_port()}/relevo",
    }
    for origin in ("topic", "ledger"):
        said = Command(away).json("export", "-o", str(tmp_path / "x.csv"), "--from", origin, code=Exit.UNAVAILABLE)
        assert said["error"]["code"] == "unavailable"
    assert not list(tmp_path.glob("*.csv*"))
    assert not list(tmp_path.glob(".*"))
