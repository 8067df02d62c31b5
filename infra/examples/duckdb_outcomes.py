"""
Outcomes per day and status, with how long they took, from an export, by DuckDB.

    relevo export --from topic -o outcomes.parquet
    python -m infra.examples.duckdb_outcomes outcomes.parquet [--json]

It needs the package duckdb and a file that `relevo export` wrote, and knows nothing else of relevo. Of each
notification the result with the highest seq is its state (a file of the topic has every change, one with --latest or of
the ledger has the last alone); rejections (seq 0) are records that never became a notification and are left out, and so
is what concerned the simulator.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich.console import Console
from rich.table import Table

from infra.cli.output import EXIT_CODES_TEXT, AsJson, CommandError, Exit, print_json, run

OUTCOMES = """
WITH latest AS (
    SELECT
        id,
        arg_max(status, seq) AS status,
        arg_max(occurred_at, seq) AS occurred_at,
        arg_max(duration_ms, seq) AS duration_ms
    FROM read_parquet($file)
    WHERE seq > 0 AND test IS NOT TRUE
    GROUP BY id
)
SELECT
    strftime(occurred_at AT TIME ZONE 'UTC', '%Y-%m-%d') AS day,
    status,
    count(*) AS notifications,
    quantile_disc(duration_ms, 0.50) AS p50_ms,
    quantile_disc(duration_ms, 0.99) AS p99_ms
FROM latest
GROUP BY day, status
ORDER BY day, status
"""


def outcomes(file: Path) -> list[dict[str, Any]]:
    """
    Return one row for each day (UTC) and status: day, status, notifications, p50_ms, p99_ms.

    p50_ms, p99_ms: milliseconds from acceptance until the notification came to that status.
    Raises:
        CommandError: there is no such file, or it is none that `relevo export` wrote.
    """
    with duckdb.connect() as connection:
        try:
            found = connection.execute(OUTCOMES, {"file": str(file)})
        except duckdb.Error as error:
            raise CommandError(
                Exit.FAILED, "unreadable", f"{file} cannot be read as Parquet: {type(error).__name__}.",
                "Write it with `relevo export --format parquet`.",
            ) from error  # fmt: skip
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def show(file: Annotated[Path, typer.Argument(help="Written by `relevo export`.")], *, as_json: AsJson = False) -> None:
    """Count notifications per day and status, and say how long they took."""
    rows = outcomes(file)
    if as_json:
        print_json(rows)
        return
    table = Table("day", "status", "notifications", "p50 ms", "p99 ms", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def main() -> int:
    """Run the example."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EXIT_CODES_TEXT)(show)
    return run(app, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
