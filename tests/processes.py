"""Processes of relevo as tests run them: started with an environment, found by their ports, ended by their pid."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from infra.stack.ports import free_port

ROOT = Path(__file__).parent.parent

READY_S_MAX = 90.0
STOP_S_MAX = 30.0


class ServiceProcess:
    """
    One service, as `python -m` runs it.

    Args:
        module: ingest, pipeline or sender.
        environment: RELEVO_* settings; nothing of the test's own environment that begins so comes through.
        log: file that gets its output.
    """

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.module = module
        self.log = log
        self.ops_port = free_port()
        self.environment = environment | {"RELEVO_OPS_PORT": str(self.ops_port)}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                cwd=ROOT,
                env=inherited | self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.spawn()
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline:
            if not self.alive:
                break
            if self.readiness()[0] == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.module} is not ready: {self.readiness()}\n{self.tail()}")

    def readiness(self) -> tuple[int, dict]:
        """Return the status of /readyz and what it says; 0 when nobody answers."""
        return get_json(f"http://127.0.0.1:{self.ops_port}/readyz")

    def metric(self, line: str) -> float:
        """Return the value of the metric line that begins with *line*; 0 when there is none yet."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}/metrics", timeout=5) as answer:
            for each in answer.read().decode().splitlines():
                if each.startswith(line + " "):
                    return float(each.rpartition(" ")[2])
        return 0.0

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """End it with SIGTERM; returns its exit code."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def events(self, name: str) -> list[dict]:
        """Return its log lines of one event."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and event.get("event") == name:
                    found.append(event)
        return found

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise AssertionError(f"{self.module} did not end within {STOP_S_MAX} s\n{self.tail()}") from None


def get_json(url: str, timeout_s: float = 5.0) -> tuple[int, dict]:
    """GET *url*; status and JSON body. (0, {}) when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")
    except (OSError, ValueError):
        return 0, {}


def eventually(check, within_s: float = 15.0, every_s: float = 0.05):
    """Call *check* until it returns something true, and return that; its last answer or error fails the test."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if answer := check():
                return answer
            problem: object = answer
        except AssertionError as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {problem!r}")
        time.sleep(every_s)
