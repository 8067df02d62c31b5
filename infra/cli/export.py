"""`relevo export`: outcomes as a file for analysts, CSV or Parquet."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli.export_columns import COLUMNS, Row
from infra.cli.export_files import Format, RowFile, open_rows
from infra.cli.export_sources import ROWS_MAX, Done, LedgerSource, TopicSource, wanted
from infra.cli.output import AsJson, print_json, print_line
from infra.cli.where import find_place
from infra.settings import Settings
from schemas.moments import read_moment
from schemas.states import State


class From(StrEnum):
    """Where the rows come from."""

    TOPIC = "topic"
    LEDGER = "ledger"


def _moment(text: str) -> datetime:
    try:
        return read_moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def export(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file; one that is there is replaced.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="csv or parquet; without it, by the end of the file's name.")
    ] = None,
    origin: Annotated[
        From,
        typer.Option(
            "--from", help="topic: every event of the last 30 days; ledger: every notification with its latest state."
        ),
    ] = From.TOPIC,
    latest: Annotated[
        bool, typer.Option("--latest", help="Of the topic, only the last event of each notification.")
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option(parser=_moment, metavar="TIME", help="Only what occurred from then on, RFC 3339 with an offset."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(parser=_moment, metavar="TIME", help="Only what occurred before then.")
    ] = None,
    status: Annotated[State | None, typer.Option(help="Only what has this status.")] = None,
    producer: Annotated[str | None, typer.Option(help="Only what this producer asked for.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Write outcomes to a file: one row for each event, or for each notification.

    The columns are the fields of a result (README, "For analysts"). An event that is on the topic several times is
    written once. The topic is read until where it ended at the beginning. No addresses, subjects or bodies.
    """
    form = form or _by_name(output)
    settings = find_place().settings
    is_wanted = wanted(since=since, until=until, status=status, producer=producer)
    with _progress() as done, open_rows(output, form) as file:
        if origin is From.TOPIC:
            told = _export_topic(settings, file, is_wanted, done, latest=latest)
        else:
            told = asyncio.run(_export_ledger(settings, file, is_wanted, done))
    document = {
        "file": str(output),
        "format": form.value,
        "from": origin.value,
        **told,
        "bytes": output.stat().st_size,
        "columns": [column.name for column in COLUMNS],
    }
    if as_json:
        print_json(document)
    else:
        print_line(f"{document['rows']} rows in {output} ({document['bytes']} bytes)")
        if unreadable := told.get("unreadable"):
            print_line(f"{unreadable} records are no results, and were passed over.", "failed")


def _by_name(output: Path) -> Format:
    try:
        return Format(output.suffix.removeprefix(".").lower())
    except ValueError:
        raise typer.BadParameter("name a file that ends in .csv or .parquet, or give --format") from None


class _Rows:
    """Writes what is wanted, in pieces of one size, and counts."""

    def __init__(self, file: RowFile, is_wanted: Callable[[Row], Any]) -> None:
        self._file = file
        self._is_wanted = is_wanted
        self._waiting: list[Row] = []
        self.count = 0

    def add(self, rows: list[Row]) -> None:
        self._waiting += filter(self._is_wanted, rows)
        if len(self._waiting) >= ROWS_MAX:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._waiting)
        self.count += len(self._waiting)
        self._waiting = []


def _export_topic(
    settings: Settings, file: RowFile, is_wanted: Callable[[Row], Any], done: Done, *, latest: bool
) -> dict[str, int]:
    source, written = TopicSource(settings.kafka_bootstrap, latest=latest), _Rows(file, is_wanted)
    for rows in source.rows(done):
        written.add(rows)
    written.flush()
    return {"rows": written.count, "read": source.read, "unreadable": source.unreadable}


async def _export_ledger(
    settings: Settings, file: RowFile, is_wanted: Callable[[Row], Any], done: Done
) -> dict[str, int]:
    source, written = LedgerSource(settings.postgres_dsn), _Rows(file, is_wanted)
    async for rows in source.rows(done):
        written.add(rows)
    written.flush()
    return {"rows": written.count, "read": source.read}


@contextmanager
def _progress() -> Iterator[Done]:
    console = Console(stderr=True)
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("reading", total=None)

        def done(read: int, total: int | None) -> None:
            bar.update(task, completed=read, total=total)

        yield done
