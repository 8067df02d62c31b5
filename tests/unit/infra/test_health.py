"""Answers about servers come from memory: quick even while a server hangs, and never old."""

import asyncio
import time

import pytest

from infra import health
from infra.health import DependencyHealth, Readiness


async def answers():
    pass


async def refuses():
    raise OSError("away")


class Switch:
    """A server that answers, refuses or hangs."""

    def __init__(self):
        self.mode = "answers"
        self.asked = 0

    async def __call__(self):
        self.asked += 1
        if self.mode == "hangs":
            await asyncio.Event().wait()
        if self.mode == "refuses":
            raise ConnectionError


async def within(seconds, claim):
    begun = time.monotonic()
    while not claim():
        assert time.monotonic() - begun < seconds, "not in time"
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


@pytest.fixture
async def watching():
    started = []

    async def watch(**probes):
        watched = DependencyHealth(probes)
        await watched.start()
        started.append(watched)
        return watched

    yield watch
    for each in started:
        await each.stop()


async def test_nobody_is_up_before_they_answered(watching):
    assert DependencyHealth({"kafka": answers}).up() == {"kafka": False}
    watched = await watching(kafka=answers, redis=refuses)
    await within(1, lambda: watched.up() == {"kafka": True, "redis": False})


async def test_one_that_hangs_turns_false_within_a_second_and_delays_nobody(watching, monkeypatch):
    monkeypatch.setattr(health, "PROBE_INTERVAL_S", 0.05)
    monkeypatch.setattr(health, "ANSWER_AGE_S_MAX", 0.3)
    server = Switch()
    watched = await watching(kafka=server, redis=answers)
    await within(1, lambda: watched.up()["kafka"])
    server.mode = "hangs"
    begun = time.monotonic()
    while watched.up()["kafka"]:
        assert watched.up()["redis"]
        assert time.monotonic() - begun < 0.3 + 0.2, "an answer is at most that old"
        await asyncio.sleep(0.01)
    asked = time.perf_counter()
    assert watched.up() == {"kafka": False, "redis": True}
    assert time.perf_counter() - asked < 0.05


async def test_one_that_hung_is_asked_again_and_comes_back(watching, monkeypatch):
    monkeypatch.setattr(health, "PROBE_INTERVAL_S", 0.02)
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.1)
    server = Switch()
    server.mode = "hangs"
    watched = await watching(kafka=server)
    await within(2, lambda: server.asked >= 2)
    assert health.DEPENDENCY_UP.labels("kafka")._value.get() == 0
    server.mode = "answers"
    await within(2, lambda: watched.up()["kafka"])
    assert health.DEPENDENCY_UP.labels("kafka")._value.get() == 1


async def test_one_that_refuses_turns_false_at_once(watching, monkeypatch):
    monkeypatch.setattr(health, "PROBE_INTERVAL_S", 0.02)
    server = Switch()
    watched = await watching(kafka=server)
    await within(1, lambda: watched.up()["kafka"])
    server.mode = "refuses"
    assert await within(1, lambda: not watched.up()["kafka"]) < health.ANSWER_AGE_S_MAX / 2


async def test_after_stop_nobody_is_asked(watching, monkeypatch):
    monkeypatch.setattr(health, "PROBE_INTERVAL_S", 0.01)
    server, hanging = Switch(), Switch()
    hanging.mode = "hangs"
    watched = await watching(kafka=server, redis=hanging)
    await within(1, lambda: server.asked > 2)
    await watched.stop()
    asked = server.asked
    await asyncio.sleep(0.05)
    assert server.asked == asked


def test_the_bounds_hold_together():
    # One interval and one ordinary answer fit into the age that an answer may have: no flapping.
    assert health.PROBE_INTERVAL_S < health.ANSWER_AGE_S_MAX <= 1.0
    assert health.PROBE_TIMEOUT_S >= health.ANSWER_AGE_S_MAX


def test_ready_is_who_has_no_reason_not_to_be():
    readiness = Readiness("start", "kafka")
    assert readiness.reasons == {"start": "starting", "kafka": "starting"}
    readiness.green("start")
    readiness.green("never red")
    readiness.red("kafka", "does not answer")
    assert readiness.reasons == {"kafka": "does not answer"}
    readiness.reasons.clear()
    assert readiness.reasons == {"kafka": "does not answer"}
    readiness.green("kafka")
    assert readiness.reasons == {}


def test_the_metric_says_what_readyz_says():
    readiness = Readiness("start")
    assert health.READY._value.get() == 0
    readiness.green("start")
    assert health.READY._value.get() == 1
    readiness.red("redis", "does not answer")
    assert health.READY._value.get() == 0
