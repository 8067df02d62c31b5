"""
The command line: in a process of its own where a test talks to it while it runs, otherwise in this one, which spares
each of many runs the second that its imports take.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Self
from unittest import mock

from infra.cli.__main__ import run_relevo
from tests.processes import ROOT

RUN_S_MAX = 60.0


class Command:
    """
    `relevo`, or another module, with an environment.

    Args:
        environment: RELEVO_* settings; nothing of the test's own environment that begins so comes through.
    """

    def __init__(self, environment: dict[str, str], module: str = "infra.cli") -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        self.environment = inherited | environment
        self.module = module

    def start(self, *arguments: str) -> "Running":
        """Start it and wait for nothing."""
        return Running(
            subprocess.Popen(
                [sys.executable, "-m", self.module, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run it to its end, which must be *code*, and return its standard output."""
        out, err, found = self._run_here(arguments) if self.module == "infra.cli" else self.start(*arguments).end()
        assert found == code, f"exit code {found}, not {code}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return out

    def _run_here(self, arguments: tuple[str, ...]) -> tuple[str, str, int]:
        out, err = io.StringIO(), io.StringIO()
        on_term = signal.getsignal(signal.SIGTERM)
        with mock.patch.dict(os.environ, self.environment, clear=True), redirect_stdout(out), redirect_stderr(err):
            code = run_relevo(list(arguments))
        signal.signal(signal.SIGTERM, on_term)
        return out.getvalue(), err.getvalue(), code

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run it with --json; its one document."""
        document: dict[str, Any] = json.loads(self.run(*arguments, "--json", code=code))
        return document


class Running:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        # It follows for ever if nobody ends it; a test that fails in between must not leave it behind.
        self._guard = threading.Timer(RUN_S_MAX, process.kill)
        self._guard.daemon = True
        self._guard.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()

    def wait_for_error_line(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line:
                return
        raise AssertionError(f"ended without saying {text!r}")

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> tuple[str, str, int]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[str, str, int]:
        """Wait for its end: the rest of its output, of its errors, and its exit code."""
        try:
            out, err = self.process.communicate(timeout=RUN_S_MAX)
        except ValueError:  # it was waited for already
            out, err = "", ""
        self._guard.cancel()
        return out, err, self.process.returncode


def timed(call: Any) -> tuple[Any, float]:
    """Return what *call* returns, and how many seconds it took."""
    began_s = time.monotonic()
    return call(), time.monotonic() - began_s
