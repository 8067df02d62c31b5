"""A process that we start, know again, and end: its recipe, and the process made from it."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from infra.stack.identity import Identity

LOG_BYTES_MAX = 10 * 1024 * 1024

Say = Callable[[str], None]
"""Told, in a few words, which step is being done."""


def _nothing(_say: Say) -> None:
    """Prepare nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """
    How to run one process.

    folder is its working folder, and nobody else's: a process that runs there is this one. program is the executable
    that it ends up as, which argv may reach through another. ready tells, within about a second, whether it does its
    work. prepare makes what must be there before it starts, tells its steps, and may raise ConfigurationError.
    ports are those that must be free before it starts. settings are the part of the environment that makes a
    difference: a process that was started with others is not the wanted one. ops_port is where a service answers
    /readyz and /metrics.
    """

    name: str
    argv: tuple[str, ...]
    program: Path
    folder: Path
    log: Path
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    ports: Mapping[str, int]
    prepare: Callable[[Say], None] = _nothing
    settings: Mapping[str, str] = field(default_factory=dict)
    ops_port: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s_max: float = 30.0

    def settings_mark(self) -> str:
        """Return a short text that differs when the settings do, and gives none of them away."""
        text = json.dumps(sorted(self.settings.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Child:
    """The process of one recipe, whether we started it or took it back from a keeper that died."""

    def __init__(self, recipe: Recipe, identity: Identity | None = None) -> None:
        self.recipe = recipe
        self.identity = identity
        self.log_start_bytes = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """
        Start it, its output going to its log.

        Raises:
            OSError: the program or the folder cannot be used.
        """
        recipe = self.recipe
        recipe.folder.mkdir(parents=True, exist_ok=True)
        recipe.log.parent.mkdir(parents=True, exist_ok=True)
        bound_log(recipe.log)
        self.log_start_bytes = recipe.log.stat().st_size if recipe.log.exists() else 0
        # Straight to the file: output goes on when whoever started it is gone. Appending, so that it can be cut.
        with recipe.log.open("ab") as log:
            self._process = subprocess.Popen(
                recipe.argv,
                cwd=recipe.folder,
                env=dict(recipe.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.identity = Identity.of(self._process.pid)

    def alive(self) -> bool:
        """Tell whether it runs. One that we started and that ended is reaped here."""
        if self._process is not None and self._process.poll() is not None:
            return False
        return self.identity is not None and self.identity.alive()

    def exit_code(self) -> int | None:
        """Return how it ended, -9 for signal 9; None while it runs, or when it was not our child and nobody knows."""
        return None if self._process is None else self._process.poll()

    def ready(self) -> bool:
        """Tell whether it runs and does its work."""
        return self.alive() and self.recipe.ready()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it is ready. Returns False when it ended or the time is over."""
        deadline = time.monotonic() + timeout_s
        while self.alive() and time.monotonic() < deadline:
            if self.recipe.ready():
                return True
            time.sleep(0.05)
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, if it runs."""
        if self.identity is not None:
            self.identity.send(number)

    def stop(self) -> None:
        """End it in its own way, with SIGKILL when that takes too long. Returns when it is gone."""
        self._end(self.recipe.stop_signal, self.recipe.stop_s_max)

    def kill(self) -> None:
        """End it with SIGKILL. Returns when it is gone."""
        self._end(signal.SIGKILL, 10.0)

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        if self.identity is not None:
            self.identity.end(number, timeout_s)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # reaped, so that nothing takes the zombie for a server that still runs


def find_stray(recipe: Recipe) -> Identity | None:
    """
    Find a process of *recipe* that nobody wrote down.

    A keeper that was killed between starting a process and writing its pid leaves one. It is ours when it runs this
    program, in this folder, and leads a session of its own, as only what we start there does.
    """
    program, folder = os.path.realpath(recipe.program), os.path.realpath(recipe.folder)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.exe() == program and process.cwd() == folder and os.getsid(process.pid) == process.pid:
                found[process.pid] = process
    for process in found.values():
        with contextlib.suppress(psutil.Error):
            if process.ppid() not in found:  # PostgreSQL's own children lead sessions, too
                return Identity.of(process.pid)
    return None


def bound_log(log: Path) -> None:
    """Keep a log within LOG_BYTES_MAX: what is larger becomes the one older log, and its writer goes on in this one."""
    with contextlib.suppress(OSError):  # no log yet, or no room for a copy: nothing that should stop a start
        if log.stat().st_size > LOG_BYTES_MAX:
            # Copied and cut, not renamed: whoever has it open would go on writing into the renamed file.
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def log_tail(log: Path, lines: int = 15, *, start_bytes: int = 0) -> str:
    """
    Return the last lines of a log; empty when there is none.

    Args:
        start_bytes: where in it the last start began; what an earlier run said does not explain this one.
    """
    try:
        with log.open("rb") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            start_bytes = start_bytes if start_bytes < size_bytes else 0
            file.seek(max(start_bytes, size_bytes - 16_384))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
