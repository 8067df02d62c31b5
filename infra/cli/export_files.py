"""The files of an export, CSV or Parquet: written beside their place, and moved there when they are whole."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from infra.cli.export_columns import COLUMNS, Row
from infra.cli.output import CommandError, Exit
from schemas.records import timestamp


class Format(StrEnum):
    """How the rows are written."""

    CSV = "csv"
    PARQUET = "parquet"


class RowFile(Protocol):
    """A file that takes rows."""

    def write(self, rows: Sequence[Row]) -> None: ...
    def close(self) -> None: ...


@contextmanager
def open_rows(path: Path, form: Format) -> Iterator[RowFile]:
    """
    Open a file for rows; it is at *path*, whole, when the block was left without an error, and not there otherwise.

    What was at *path* before stays until then.
    Raises:
        CommandError: not_installed; output_refused, when it cannot be written there.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        file: RowFile = _ParquetFile(beside) if form is Format.PARQUET else _CsvFile(beside)
        try:
            yield file
        finally:
            file.close()
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except OSError as error:
        raise CommandError(
            Exit.FAILED,
            "output_refused",
            f"{path} cannot be written: {error.strerror or type(error).__name__}.",
            "Name another file with -o.",
        ) from error
    finally:
        beside.unlink(missing_ok=True)


class _CsvFile:
    """Header line, commas, CRLF (RFC 4180), UTF-8; what is missing is empty."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow([column.name for column in COLUMNS])

    def write(self, rows: Sequence[Row]) -> None:
        self._writer.writerows([_text(value) for value in row] for row in rows)

    def close(self) -> None:
        self._file.close()


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return timestamp(value) if isinstance(value, datetime) else value


class _ParquetFile:
    """One row group for each call of `write`."""

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow as pa  # noqa: PLC0415 -- an extra: CSV works without it
            import pyarrow.parquet as pq  # noqa: PLC0415 -- an extra, too
        except ModuleNotFoundError as missing:
            raise CommandError(
                Exit.CONFIGURATION,
                "not_installed",
                f"Parquet needs the package {missing.name}, which is not installed here.",
                'Install it with `pip install "relevo[export]"`, or write --format csv.',
            ) from missing
        kinds = {
            "text": pa.string(),
            "int": pa.int64(),
            "bool": pa.bool_(),
            "moment": pa.timestamp("ms", tz="UTC"),
            "json": pa.string(),
        }
        self._pa = pa
        self._schema = pa.schema([pa.field(each.name, kinds[each.kind], nullable=not each.needed) for each in COLUMNS])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        if rows:
            columns = [
                self._pa.array(values, field.type)
                for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
            ]
            self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
