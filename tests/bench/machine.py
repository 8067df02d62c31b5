"""The machine: how fast it is just now, who else uses it, and what each process costs."""

import hashlib
import os
import platform
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

CALIBRATION_S = 0.3
SPEED_OFF_MAX = 0.15  # of the median of all calibrations of this run
STEAL_MAX = 0.05
OTHERS_MAX = 0.10  # of all cores, by processes that are no part of the measurement

_BLOCK = b"x" * 65536


def _hashes(deadline: float) -> int:
    done = 0
    while time.perf_counter() < deadline:
        hashlib.sha256(_BLOCK).digest()  # lets go of the interpreter's lock
        done += 1
    return done


def calibrate() -> float:
    """Return how much fixed work all cores together get done in a second, in MB hashed."""
    cores = os.cpu_count() or 1
    deadline = time.perf_counter() + CALIBRATION_S
    with ThreadPoolExecutor(cores) as pool:
        done = sum(pool.map(_hashes, [deadline] * cores))
    return done * len(_BLOCK) / 1e6 / CALIBRATION_S


def cpu_of_tree(pid: int) -> dict[int, float]:
    """Return the CPU seconds of *pid* and everything below it, by pid, with what ended children left to them."""
    found: dict[int, float] = {}
    try:
        root = psutil.Process(pid)
        for each in (root, *root.children(recursive=True)):
            try:
                times = each.cpu_times()
            except psutil.Error:
                continue
            found[each.pid] = times.user + times.system + times.children_user + times.children_system
    except psutil.Error:
        pass
    return found


def memory_of_tree(pid: int) -> float:
    """Return the proportional set size of *pid* and everything below it, in MiB: shared pages count once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for each in (root, *root.children(recursive=True)):
            try:
                total += each.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total / 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """What one turn cost: CPU seconds by part of the side, and what the machine did besides."""

    seconds: float
    cpu_s: dict[str, float]
    others: float  # share of all cores
    steal: float

    @property
    def total_s(self) -> float:
        return sum(self.cpu_s.values())


class Meter:
    """
    Measures one turn.

    Args:
        parts: the processes that count, by name; a name may have several pids.
        known: further pids that belong to the measurement and count for nobody: sink, this process.
    """

    def __init__(self, parts: dict[str, Iterable[int]], known: Iterable[int]) -> None:
        self._parts = {name: tuple(pids) for name, pids in parts.items()}
        self._known = (*known, os.getpid())
        self._begun = time.perf_counter()
        self._before = self._look()
        self._machine = psutil.cpu_times()

    def _look(self) -> dict[str, float]:
        found = {name: sum(sum(cpu_of_tree(pid).values()) for pid in pids) for name, pids in self._parts.items()}
        # This process's own children are counted where they belong; of it, only its own time.
        own = psutil.Process().cpu_times()
        found[""] = own.user + own.system + own.children_user + own.children_system
        found[""] += sum(sum(cpu_of_tree(pid).values()) for pid in self._known if pid != os.getpid())
        return found

    def stop(self) -> Cost:
        seconds = time.perf_counter() - self._begun
        after, machine = self._look(), psutil.cpu_times()
        spent = {name: after[name] - self._before[name] for name in after}
        busy = sum(
            getattr(machine, name) - getattr(self._machine, name)
            for name in ("user", "system", "nice", "softirq", "irq")
        )
        steal = machine.steal - self._machine.steal
        capacity = seconds * (os.cpu_count() or 1)
        others = max(0.0, busy - sum(spent.values())) / capacity
        return Cost(seconds, {name: value for name, value in spent.items() if name}, others, steal / capacity)


class Calm:
    """Decides which turns were made on a machine that was as fast as usual, and nobody else's."""

    def __init__(self) -> None:
        self._speeds: list[float] = []

    def note(self) -> float:
        self._speeds.append(calibrate())
        return self._speeds[-1]

    def objections(self, speeds: Iterable[float], cost: Cost) -> list[str]:
        usual = statistics.median(self._speeds)
        found = []
        worst = max(abs(speed / usual - 1) for speed in speeds)
        if worst > SPEED_OFF_MAX:
            found.append(f"the machine's speed was {worst:.0%} off")
        if cost.steal > STEAL_MAX:
            found.append(f"steal {cost.steal:.0%}")
        if cost.others > OTHERS_MAX:
            found.append(f"others used {cost.others:.0%} of the cores")
        return found


def header() -> dict[str, object]:
    """Return what a reader must know of the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }
