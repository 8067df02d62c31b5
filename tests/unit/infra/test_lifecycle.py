"""A service leaves in time, and its exit code says why. Run as processes, all of them side by side."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "tiny_service.py"
STARTED = '"event":"service_started"'

WAYS = {
    "works": signal.SIGTERM,
    "works, ctrl-c": signal.SIGINT,
    "hangs": signal.SIGTERM,
    "leaves a task": signal.SIGTERM,
    "leaves a thread": signal.SIGTERM,
    "waits for a server": signal.SIGTERM,
    "breaks at the end": signal.SIGTERM,
    "traces to nobody": signal.SIGTERM,
    "ends": None,
    "broken": None,
    "misconfigured": None,
    "refused elsewhere": None,
    "wrong setting": None,
}


class Run:
    """One run of the tiny service, from start to exit."""

    def __init__(self, how, number):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        environment["RELEVO_PROFILE"] = "canary" if how == "wrong setting" else "development"
        # Takes connections and never answers.
        self._collector = socket.create_server(("127.0.0.1", 0))
        if how == "traces to nobody":
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{self._collector.getsockname()[1]}"
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, how], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.number = number
        self.took_s = 0.0
        self.lines, self.stderr = [], ""
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if STARTED in line and self.number is not None:
                time.sleep(0.2)  # let the body reach its place
                begun = time.monotonic()
                self.process.send_signal(self.number)
                self.process.wait()
                self.took_s = time.monotonic() - begun

    def join(self):
        self._thread.join(20)
        self.process.kill()
        self._thread.join()
        self.stderr = self.process.stderr.read()
        self.process.stderr.close()
        self.process.stdout.close()
        self._collector.close()
        self.code = self.process.wait()
        self.events = [json.loads(line)["event"] for line in self.lines]


@pytest.fixture(scope="module")
def runs():
    runs = {how: Run(how, number) for how, number in WAYS.items()}
    for run in runs.values():
        run.join()
    return runs


@pytest.mark.parametrize("how", ["works", "works, ctrl-c", "waits for a server"])
def test_a_signal_is_an_ordinary_end(runs, how):
    run = runs[how]
    assert (run.code, run.stderr) == (0, "")
    assert [event for event in run.events if event != "service_stopping"] == ["service_started", "service_stopped"]
    assert run.took_s < 5


def test_a_body_that_ends_by_itself_ends_the_service(runs):
    assert (runs["ends"].code, runs["ends"].events) == (0, ["service_started", "service_stopped"])


def test_a_collector_that_never_answers_costs_spans_and_no_time(runs):
    run = runs["traces to nobody"]
    assert (run.code, run.events[-1]) == (0, "service_stopped")
    assert run.took_s < 5


def test_a_body_that_hangs_is_left_hard_and_in_time(runs):
    run = runs["hangs"]
    assert run.code == 0
    assert run.events == ["service_started", "service_stopping", "service_left_hard"]
    assert 1.0 <= run.took_s < 6


@pytest.mark.parametrize("how", ["leaves a task", "leaves a thread"])
def test_what_a_body_leaves_behind_holds_nobody_up(runs, how):
    run = runs[how]
    assert run.code == 0
    assert run.events[-1] == "service_stopped"
    assert run.took_s < 5


@pytest.mark.parametrize("how", ["broken", "breaks at the end"])
def test_a_bug_is_told_and_whoever_started_it_may_start_it_again(runs, how):
    run = runs[how]
    assert run.code == 1
    assert run.events[-1] == "service_broke"


def test_a_configuration_error_is_one_sentence_and_a_code_of_its_own(runs):
    run = runs["misconfigured"]
    assert run.code == 78
    assert run.stderr == "relevo tiny: topic notifications.requested does not exist: run `relevo topics apply`\n"
    assert "Traceback" not in "".join(run.lines)


def test_what_is_refused_in_another_thread_ends_the_service_as_a_signal_would_and_is_told(runs):
    run = runs["refused elsewhere"]
    assert run.code == 78
    assert run.stderr == "relevo tiny: RELEVO_INSTANCE: taken\n"
    told = [event for event in run.events if event != "service_stopping"]
    assert told == ["service_started", "service_stopped", "configuration_refused"]


def test_a_wrong_setting_is_found_before_anything_starts(runs):
    run = runs["wrong setting"]
    assert run.code == 78
    assert run.stderr == "relevo tiny: RELEVO_PROFILE: Input should be 'development' or 'production'\n"
    assert run.lines == []
