"""The report: ratios of figures that were taken in turns, with the range over the rounds."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tests.bench.parts import Turn

TITLES = {
    "P1": "accepted per second, single requests",
    "P2": "accepted per second, batches of 100",
    "P3": "draining a backlog, mails per second",
    "P4": "accepting and delivering at once, per second",
}


class Target(NamedTuple):
    """What a figure must come to: at least or at most *value*."""

    at_least: bool
    value: float

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"

    def judge(self, found: Sequence[float]) -> str:
        """Say whether every round meets it, or the median alone, or not even that."""

        def meets(each: float) -> bool:
            return each >= self.value if self.at_least else each <= self.value

        if all(map(meets, found)):
            return "yes"
        return "by the median" if meets(statistics.median(found)) else "no"


TUNED = "celery-tuned"
# Of ratios: ours to theirs.
RATES = {
    ("P1", TUNED): Target(True, 10),
    ("P3", TUNED): Target(True, 15),
    ("P4", TUNED): Target(True, 10),
    ("P3", "bullmq"): Target(True, 1),
}
BATCHES = Target(True, 50)
CPU = Target(False, 0.1)
NO_WORSE = Target(False, 1)
P99_MS_MAX_AT = {1000: Target(False, 50)}
IDLE = Target(False, 0.03)

Row = tuple[str, str, str, str, str, str]


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
    return f"{_short(middle)} ({_short(listed[0])}-{_short(listed[-1])})"


def _short(value: float) -> str:
    """Return three digits that count, and no exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(what: str, against: str, found: Sequence[float], target: Target | None = None) -> Row:
    judged = ("", "") if target is None else (str(target), target.judge(found))
    return (what, against, spread(found), str(len(found)), *judged)


def table(figures: Figures, paces: Iterable[int], rest: dict[str, dict[str, Any]]) -> list[str]:
    """
    Return the lines of the table: what, against whom, the ratio as median and range, in how many rounds, and where
    there is a target, whether every round met it.
    """
    rows: list[Row] = [("what", "against", "ratio, median (range)", "rounds", "target", "met")]
    for part, title in TITLES.items():
        for other in (TUNED, "celery-default", "bullmq"):
            if found := figures.ratios(part, "relevo", other, "rate_per_s"):
                rows.append(_row(title, other, found, RATES.get((part, other))))
            if found := figures.ratios(part, "relevo", other, "cpu_us"):
                rows.append(_row(f"{part}: CPU time per notification", other, found, CPU if other == TUNED else None))
    # No tutorial has a batch endpoint: against what a client of the peer can do.
    if found := figures.ratios("P2", "relevo", TUNED, "rate_per_s", other_part="P1"):
        rows.append(_row(TITLES["P2"], f"{TUNED}, single requests", found, BATCHES))
    for pace in paces:
        rows += _latency_rows(figures, pace)
    rows += _rest_rows(rest)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _latency_rows(figures: Figures, pace: int) -> list[Row]:
    rows = []
    for value in ("p50_ms", "p99_ms"):
        what = f"latency at {pace} per second, {value[:3]}"
        if found := figures.ratios(f"P5 {pace}", "relevo", TUNED, value):
            rows.append(_row(what, TUNED, found, NO_WORSE))
        turns = [turns["relevo"] for turns in figures.turns.get(f"P5 {pace}", []) if "relevo" in turns]
        if own := [each for turn in turns if (each := _value(turn, value))]:
            target = P99_MS_MAX_AT.get(pace) if value == "p99_ms" else None
            rows.append(_row(f"{what}, ms", "itself", own, target))
    return rows


def _rest_rows(rest: dict[str, dict[str, Any]]) -> list[Row]:
    rows = []
    if "relevo" in rest:
        own = rest["relevo"]["memory_mib"]
        for other in (TUNED, "celery-default"):
            if other in rest:
                theirs = rest[other]["memory_mib"]
                target = NO_WORSE if other == TUNED else None
                with_servers = _without_jvm(own) / sum(theirs.values())
                alone = _services(own) / _services(theirs)
                rows.append(_row("memory without the JVM, servers counted", other, [with_servers], target))
                rows.append(_row("memory of the services alone", other, [alone]))
        idle = rest["relevo"]["idle_cores"]
        share = sum(each for name, each in idle.items() if name != "kafka")
        rows.append(_row("idle: share of one core without the JVM", "itself", [share], IDLE))
    return rows


def _without_jvm(memory: dict[str, float]) -> float:
    return sum(each for name, each in memory.items() if name != "kafka")


def _services(memory: dict[str, float]) -> float:
    return sum(each for name, each in memory.items() if name not in {"kafka", "postgres", "redis"})
