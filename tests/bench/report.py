"""The report: ratios of figures that were taken in turns, with the range over the rounds."""

import statistics
from collections.abc import Iterable
from typing import Any

from tests.bench.parts import Turn

TITLES = {
    "P1": "accepted per second, single requests",
    "P2": "accepted per second, batches of 100",
    "P3": "draining a backlog, mails per second",
    "P4": "accepting and delivering at once, per second",
}


class Figures:
    """What each side showed in each round of each part."""

    def __init__(self) -> None:
        self.turns: dict[str, list[dict[str, Turn]]] = {}
        self.thrown_away: list[str] = []

    def add(self, part: str, turns: dict[str, Turn]) -> None:
        self.turns.setdefault(part, []).append(turns)

    def ratios(self, part: str, ours: str, other: str, value: str, *, other_part: str | None = None) -> list[float]:
        """Return ours / other of *value*, one for each round that has both."""
        found = []
        for mine, theirs in zip(self.turns.get(part, []), self.turns.get(other_part or part, []), strict=False):
            if ours in mine and other in theirs:
                a, b = _value(mine[ours], value), _value(theirs[other], value)
                if a and b:
                    found.append(a / b)
        return found


def _value(turn: Turn, name: str) -> float | None:
    return turn.cpu_us if name == "cpu_us" else turn.figures.get(name)


def spread(values: Iterable[float]) -> str:
    listed = sorted(values)
    if not listed:
        return "-"
    middle = statistics.median(listed)
    return f"{middle:.3g} ({listed[0]:.3g}-{listed[-1]:.3g})"


def table(figures: Figures, paces: Iterable[int], rest: dict[str, dict[str, Any]]) -> list[str]:
    """Return the lines of the table: what, against whom, the ratio as median and range, and in how many rounds."""
    rows = [("what", "against", "ratio, median (range)", "rounds")]
    for part, title in TITLES.items():
        for other in ("celery-tuned", "celery-default", "bullmq"):
            for value, what in (("rate_per_s", title), ("cpu_us", f"{part}: CPU time per notification")):
                found = figures.ratios(part, "relevo", other, value)
                if found:
                    rows.append((what, other, spread(found), str(len(found))))
    # No tutorial has a batch endpoint: against what a client of the peer can do.
    found = figures.ratios("P2", "relevo", "celery-tuned", "rate_per_s", other_part="P1")
    if found:
        rows.append((TITLES["P2"], "celery-tuned, single requests", spread(found), str(len(found))))
    for pace in paces:
        for value in ("p50_ms", "p99_ms"):
            found = figures.ratios(f"P5 {pace}", "relevo", "celery-tuned", value)
            if found:
                rows.append(
                    (f"latency at {pace} per second, {value[:3]}", "celery-tuned", spread(found), str(len(found)))
                )
            own = [_value(turns["relevo"], value) for turns in figures.turns.get(f"P5 {pace}", []) if "relevo" in turns]
            if any(own):
                rows.append(
                    (
                        f"latency at {pace} per second, {value[:3]}, ms",
                        "itself",
                        spread(each for each in own if each),
                        str(len(own)),
                    )
                )
    rows += _rest_rows(rest)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rest_rows(rest: dict[str, dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    rows = []
    if "relevo" in rest:
        own = rest["relevo"]["memory_mib"]
        for other in ("celery-tuned", "celery-default"):
            if other in rest:
                theirs = rest[other]["memory_mib"]
                with_servers = _without_jvm(own) / sum(theirs.values())
                alone = _services(own) / _services(theirs)
                rows.append(("memory without the JVM, servers counted", other, f"{with_servers:.3g}", "1"))
                rows.append(("memory of the services alone", other, f"{alone:.3g}", "1"))
        idle = rest["relevo"]["idle_cores"]
        share = sum(each for name, each in idle.items() if name != "kafka")
        rows.append(("idle: share of one core without the JVM", "itself", f"{share:.2%}", "1"))
    return rows


def _without_jvm(memory: dict[str, float]) -> float:
    return sum(each for name, each in memory.items() if name != "kafka")


def _services(memory: dict[str, float]) -> float:
    return sum(each for name, each in memory.items() if name not in {"kafka", "postgres", "redis"})
