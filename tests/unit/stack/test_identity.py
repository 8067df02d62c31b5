"""Which process is meant, and that no other one is ever signalled."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from infra.stack.identity import Identity


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def test_a_running_process_is_known_again(sleeper):
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    assert identity.alive()


def test_the_same_pid_with_another_start_is_somebody_else(sleeper):
    real = Identity.of(sleeper.pid)
    assert real is not None
    impostor = dataclasses.replace(
        real, create_time=real.create_time - 100, start_ticks=real.start_ticks and real.start_ticks - 10_000
    )
    assert not impostor.alive()
    assert not impostor.send(signal.SIGKILL)
    assert sleeper.poll() is None, "a stranger was killed"


def test_a_clock_that_was_set_does_not_make_a_process_another_one(sleeper):
    real = Identity.of(sleeper.pid)
    assert real is not None
    if real.start_ticks is None:
        pytest.skip("this system has no start ticks")
    assert dataclasses.replace(real, create_time=real.create_time + 3600).alive()


def test_without_ticks_the_start_time_decides(sleeper):
    real = Identity.of(sleeper.pid)
    assert real is not None
    assert dataclasses.replace(real, start_ticks=None).alive()
    assert not dataclasses.replace(real, start_ticks=None, create_time=real.create_time - 1).alive()


def test_a_zombie_does_not_run(sleeper):
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    identity.send(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert not identity.alive()
    assert Identity.of(sleeper.pid) is None


def test_a_paused_process_can_be_ended(sleeper):
    identity = Identity.of(sleeper.pid)
    assert identity is not None
    identity.send(signal.SIGSTOP)
    identity.end(signal.SIGTERM, timeout_s=10)
    assert sleeper.wait(5) == -signal.SIGTERM


def test_one_that_does_not_obey_is_killed():
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    with stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        identity = Identity.of(stubborn.pid)
        assert identity is not None
        identity.end(signal.SIGTERM, timeout_s=0.2)
        assert stubborn.wait(5) == -signal.SIGKILL
