"""
Measure relevo against what teams run today, in turns on the same ground, and print one table of ratios.

    make bench [QUICK=1] [ROUNDS=5] [PARTS="P1 P3"] [NOISY=1] [REPORT=file.json]
    make bench GROWTH=1 [MARKS="10000 1000000"] | SCALE=1 | DISTANT=1    relevo alone: see growth, scale, distant
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.bench import distant, growth, scale
from tests.bench.bootstrap import ensure_environment
from tests.bench.ground import Ground
from tests.bench.machine import Calm, header
from tests.bench.parts import FULL, PEER_PACE_MAX, QUICK, Parts, Sizes, Turn
from tests.bench.report import TUNED, Figures, table
from tests.bench.sides import BENCH_BIN, BullmqSide, PeerSide, RelevoSide
from tests.chaos.fleet import interruptible

TRIES = 3  # for a round that met a noisy machine


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="under five minutes; for a first look")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, with --quick 1")
    parser.add_argument("--parts", default="", help="of P1 P2 P3 P4 P5 P6; default all")
    parser.add_argument("--noisy", action="store_true", help="keep rounds that met a noisy machine, and say so")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--growth", action="store_true", help="only growth: 10,000 stored ids against 1,000,000")
    alone.add_argument("--scale", action="store_true", help="only scale-out: more senders, pipelines, partitions")
    alone.add_argument("--distant", action="store_true", help="only a relay with 20 ms of round trip, and its caps")
    parser.add_argument("--marks", default="10000 1000000", help="stored ids that growth compares")
    parser.add_argument("--report", type=Path, default=Path("bench-report.json"), help="where the raw figures go")
    return parser.parse_args()


class Bench:
    """One run: all sides up, parts in turns."""

    def __init__(self, home: Path, sizes: Sizes, *, noisy: bool) -> None:
        self.ground = Ground(home)
        self.parts = Parts(self.ground, sizes)
        self.figures, self.calm, self.noisy = Figures(), Calm(), noisy
        self.sides: list[Any] = []

    def up(self, names: set[str]) -> None:
        self.sides.append(RelevoSide(self.ground))
        if "celery-tuned" in names:
            self.sides.append(PeerSide(self.ground, "tuned", 1))
        if "celery-default" in names:
            self.sides.append(PeerSide(self.ground, "default", 2))
        if "bullmq" in names:
            self.sides.append(BullmqSide(self.ground))
        for side in self.sides:
            if side.name != "bullmq":
                side.up()

    def warm_up(self) -> None:
        for side in self.sides:
            if side.name != "bullmq":
                self.ground.sink.ask("reset")
                self.parts._load(side, seconds=1.0, count=200)
                side.settle()

    def turn(self, part: str, side: Any, measure_it: Any) -> Turn:
        """One turn; again when the machine was not calm, and kept with its objections when it never was."""
        for tried in range(TRIES):
            before = self.calm.note()
            turn: Turn = measure_it(side)
            objections = self.calm.objections((before, self.calm.note()), turn.cost) if turn.cost else []
            if not objections or self.noisy or turn.problems:
                break
            self.figures.thrown_away.append(f"{part} {side.name}: {'; '.join(objections)}")
            say(f"  {side.name}: thrown away, {'; '.join(objections)}")
            if tried == TRIES - 1:
                turn.problems.append("the machine was never calm")
        if objections and self.noisy:
            turn.figures["objections"] = objections
        rate, cpu = turn.figures.get("rate_per_s"), turn.cpu_us
        shown = f"{rate:,.0f}/s" if rate else ", ".join(f"{name} {each:.3g}" for name, each in turn.figures.items())
        say(
            f"  {side.name}: {shown}"
            + (f", {cpu:,.0f} us CPU each{_parts(turn)}" if cpu else "")
            + _said(turn.problems)
        )
        return turn

    def round(self, part: str, number: int, who: list[Any], measure_it: Any) -> None:
        """Every side once, in an order that turns round each time."""
        ordered = who if number % 2 == 0 else who[::-1]
        turns = {side.name: self.turn(part, side, measure_it) for side in ordered}
        # What was not verified is no figure.
        self.figures.add(part, {name: turn for name, turn in turns.items() if not turn.problems})

    def run(self, wanted: set[str], rounds: int) -> dict[str, dict[str, Any]]:
        loaded = [side for side in self.sides if side.name != "bullmq"]
        for part, measure_it in self.parts.by_name.items():
            for number in range(rounds if part in wanted else 0):
                say(f"{part}, round {number + 1} of {rounds}")
                who = self.sides if part == "P3" else loaded
                if part == "P2":
                    who = [side for side in loaded if side.name != "celery-default"]
                self.round(part, number, who, measure_it)
        for pace in self.parts.sizes.paces if "P5" in wanted else ():
            for number in range(rounds):
                say(f"P5 at {pace} per second, round {number + 1} of {rounds}")
                who = [
                    side
                    for side in loaded
                    if side.name == "relevo" or (side.name == "celery-tuned" and pace <= PEER_PACE_MAX)
                ]
                self.round(f"P5 {pace}", number, who, lambda side, pace=pace: self.parts.latency(side, pace))
        return {side.name: self.parts.rest(side) for side in loaded} if "P6" in wanted else {}

    def down(self) -> None:
        # Whoever is told to end twice must still end what was started.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for side in self.sides:
            with contextlib.suppress(Exception):
                side.down()
        self.ground.stop()


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def _parts(turn: Turn) -> str:
    assert turn.cost is not None, "who has CPU per notification has a cost"
    each = ", ".join(f"{name} {1e6 * spent / turn.cost_per:,.0f}" for name, spent in turn.cost.cpu_s.items())
    return f" ({each})"


def _said(problems: list[str]) -> str:
    return f"  NOT COUNTED: {'; '.join(problems)}" if problems else ""


def versions() -> dict[str, str]:
    ours = {
        name: version(name)
        for name in ("aiohttp", "aiokafka", "confluent-kafka", "faust-streaming", "asyncpg", "uvloop")
    }
    listed = subprocess.run(
        [BENCH_BIN / "python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    ).stdout
    theirs = {each["name"]: each["version"] for each in json.loads(listed)}
    return ours | {
        name: theirs[name] for name in ("Django", "djangorestframework", "celery", "gunicorn") if name in theirs
    }


def place() -> Path:
    """Return an empty folder, in memory if there is room: a disk's noise is larger than what is to be seen."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30
    return Path(tempfile.mkdtemp(prefix="relevo-bench-", dir=memory if roomy else None))


def main() -> int:
    given = arguments()
    interruptible()
    ensure_environment()
    about = header() | {"quick": given.quick, "versions": versions()}
    sizes = QUICK if given.quick else FULL
    wanted = set(given.parts.split()) or {"P1", "P2", "P3", "P4", "P5", "P6"}
    home = place()
    about["data"] = "in memory" if home.is_relative_to("/dev/shm") else "on disk"
    bench = Bench(home, sizes, noisy=given.noisy)
    begun = time.monotonic()
    machine_before = psutil.cpu_times()
    rest: dict[str, dict[str, Any]] = {}
    alone: dict[str, Any] = {}
    alone_of = _alone(given, sizes)
    try:
        bench.up(set() if alone_of else {TUNED, "bullmq"} | (set() if given.quick else {"celery-default"}))
        bench.warm_up()
        if alone_of is not None:
            alone = alone_of(bench)
        else:
            rest = bench.run(wanted, given.rounds or (1 if given.quick else 5))
    finally:
        bench.down()
        if not os.environ.get("BENCH_KEEP"):
            shutil.rmtree(home, ignore_errors=True)
    about["steal"] = _steal(machine_before)
    about |= {"load_after": os.getloadavg()[0], "minutes": round((time.monotonic() - begun) / 60, 1)}
    raw = {
        "header": about,
        "turns": {
            part: [
                {
                    name: {
                        "cpu_us": turn.cpu_us,
                        "cost": turn.cost
                        and {
                            "seconds": turn.cost.seconds,
                            "cpu_s": turn.cost.cpu_s,
                            "steal": turn.cost.steal,
                            "others": turn.cost.others,
                        },
                        **turn.figures,
                    }
                    for name, turn in turns.items()
                }
                for turns in rounds
            ]
            for part, rounds in bench.figures.turns.items()
        },
        "rest": rest,
        "alone": alone,
        "thrown_away": bench.figures.thrown_away,
    }
    given.report.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    show(raw, bench, rest)
    return 0


def _alone(given: argparse.Namespace, sizes: Sizes) -> Callable[[Bench], dict[str, Any]] | None:
    """Return what is measured of relevo alone, if that was asked for; each gives its raw figures and its lines."""

    def of_growth(bench: Bench) -> dict[str, Any]:
        marks = tuple(int(mark) for mark in given.marks.split())
        found = growth.measure(bench.parts, bench.sides[0], marks, 20_000, rounds=3)
        return {"growth": found, "lines": growth.lines(found)}

    def of_scale(bench: Bench) -> dict[str, Any]:
        found = scale.measure(bench.parts, bench.sides[0], sizes.drain["relevo"])
        return {"scale": found, "lines": scale.lines(found)}

    def of_distance(bench: Bench) -> dict[str, Any]:
        found = distant.measure(bench.parts, bench.sides[0])
        return {"distant": found, "lines": distant.lines(found)}

    if given.growth:
        return of_growth
    if given.scale:
        return of_scale
    return of_distance if given.distant else None


def _steal(before: Any) -> float:
    """Return the share of all cores' time since *before* that the host kept for others."""
    after = psutil.cpu_times()
    return float((after.steal - before.steal) / max(1e-9, sum(after) - sum(before)))


def show(raw: dict[str, Any], bench: Bench, rest: dict[str, Any]) -> None:
    about = raw["header"]
    named = ", ".join(f"{name} {each}" for name, each in about["versions"].items())
    machine = f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Python {about['python']}"
    print(f"{machine}, data {about['data']}")
    print(named)
    load = f"load {about['load_before']:.1f} to {about['load_after']:.1f}, steal {about['steal']:.1%}"
    print(f"{load}; {about['minutes']} min; {len(raw['thrown_away'])} turns thrown away\n")
    print("\n".join(raw["alone"].get("lines") or table(bench.figures, bench.parts.sizes.paces, rest)))


if __name__ == "__main__":
    sys.exit(main())
