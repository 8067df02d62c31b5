"""
The guarantees as a machine that tries to break them: accept, duplicate, crash, freeze, flush, rebalance, relay.

What is real: Acceptor, Relay, Marker, Sweep, Deduplicator, DeduplicatedConsumer, Watermark, Deliverer, Channel, Ladder.
What is fake: the servers (tests/fakes.py, held to the real ones by tests/contract). See world.py.
MODEL_EXAMPLES=n plays n random games instead of the few that are always the same.
"""

import os
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka.errors import RequestTimedOutError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline import dedupe
from pipeline.table import Answer
from schemas.topics import DEDUPLICATED, REQUESTED
from sender.watermark import Watermark
from tests.fakes import FakeLedger
from tests.model.ingest import Ingest
from tests.model.sender import REPLIES, Sender
from tests.model.world import World

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
WORKERS = {REQUESTED.name: ("p1", "p2"), DEDUPLICATED.name: ("s1", "s2")}

names = st.sampled_from(["ingest", "p1", "p2", "s1", "s2"])
senders = st.sampled_from(["s1", "s2"])


class Relevo(RuleBasedStateMachine):
    """Rules are what may happen; the end of every game heals all and holds the promises against what came of it."""

    ledger = FakeLedger

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.ledger)

    def teardown(self) -> None:
        try:
            self.world.drain()
        finally:
            self.world.close()

    def _some(self, which: int):
        known = list(self.world.notifications.values())
        return known[which % len(known)]

    def _ingest(self) -> Ingest:
        found = self.world.processes["ingest"]
        assert isinstance(found, Ingest)
        return found

    @initialize(steps=st.integers(0, 40))
    def begin(self, steps):
        self.accept_over_http("hold")
        self.accept_over_kafka(3, "resend")
        self.all_go_on(steps)

    @rule(on_doubt=st.sampled_from(["hold", "hold", "resend"]))
    def accept_over_http(self, on_doubt):
        self._ingest().accept(self.world.new(on_doubt=on_doubt))

    @rule(count=st.integers(1, 3), on_doubt=st.sampled_from(["hold", "hold", "resend"]))
    def accept_over_kafka(self, count, on_doubt):
        self.world.produce([self.world.new(on_doubt=on_doubt) for _ in range(count)])

    @precondition(lambda self: self.world.notifications)
    @rule(which=st.integers(0, 20), door=st.sampled_from(["http", "kafka", "twice in one array"]))
    def duplicate(self, which, door):
        notification = self._some(which)
        if door == "http":
            self._ingest().accept(notification)
        else:
            self.world.produce([notification] * (2 if door == "twice in one array" else 1))

    @rule(value=st.sampled_from([b"{", b"\xff", b"[1]", b"null"]))
    def produce_what_nobody_can_read(self, value):
        self.world.produce_poison(value)

    @rule(name=names, which=st.integers(0, 5), steps=st.sampled_from([1, 2, 5, 20, 60]))
    def go_on(self, name, which, steps):
        for _ in range(steps):
            self.world.processes[name].open(which)

    @rule(steps=st.sampled_from([1, 3, 10, 30]))
    def all_go_on(self, steps):
        for _ in range(steps):
            for process in list(self.world.processes.values()):
                process.open(0)

    @rule(steps=st.sampled_from([5, 10, 20]), seconds=st.sampled_from([0.3, 1.0]))
    def a_good_while(self, steps, seconds):
        for sender in self.world.senders():
            self.world.thaw(sender)
        for _ in range(5):
            self.all_go_on(steps)
            self.world.pass_time(seconds)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def time_passes(self, seconds):
        self.world.pass_time(seconds)

    @rule(name=names)
    def crash(self, name):
        self.world.crash(name)

    @rule(name=names, which=st.integers(0, 3), steps=st.integers(0, 15))
    def crash_on_the_way(self, name, which, steps):
        self.accept_over_kafka(1, "hold")
        self.go_on(name, which, steps)
        self.world.crash(name)

    @rule(name=names, kind=st.sampled_from(["refused", "deaf"]), times=st.integers(1, 3))
    def a_server_is_away(self, name, kind, times):
        self.world.processes[name].trouble.extend([kind] * times)

    @rule()
    def flush_redis(self):
        self.world.table.entries.clear()

    @rule(topic=st.sampled_from(sorted(WORKERS)), partition=st.integers(0, 1), to=st.integers(0, 1))
    def rebalance(self, topic, partition, to):
        self.world.move(topic, partition, WORKERS[topic][to])

    @rule(reply=st.sampled_from(sorted(REPLIES)))
    def the_relay_will(self, reply):
        self.world.replies.append(reply)

    @precondition(lambda self: not any(sender.frozen for sender in self.world.senders()))
    @rule(name=senders)
    def freeze(self, name):
        self.world.processes[name].frozen = True

    @rule(name=senders)
    def thaw(self, name):
        self.world.thaw(self.world.processes[name])

    @rule()
    def leases_run_out(self):
        self.world.expire_leases()

    @rule(on_doubt=st.sampled_from(["hold", "resend"]), door=st.sampled_from(["http", "kafka"]), expires=st.booleans())
    def accept_for_later(self, on_doubt, door, expires):
        later = datetime.now(UTC) + timedelta(days=1)
        fields = {"expires_at": later + timedelta(days=1)} if expires else {}
        notification = self.world.new(on_doubt=on_doubt, scheduled_for=later, **fields)
        if door == "http":
            self._ingest().accept(notification)
        else:
            self.world.produce([notification])

    @precondition(lambda self: self.world.ledger.rows)
    @rule(which=st.integers(0, 20), change=st.sampled_from(["cancel", "put off", "bring forward", "run out of time"]))
    def change_when(self, which, change):
        self.world.change_when(sorted(self.world.ledger.rows)[which % len(self.world.ledger.rows)], change)

    @rule()
    def what_is_due_is_put_back(self):
        self.world.put_back_due()

    @rule()
    def sweep(self):
        self._ingest().run(self._ingest().sweep.sweep_once())
        self.world.sweep_events()

    @invariant()
    def promises(self):
        self.world.check()


def play(machine, examples, steps=60):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not EXAMPLES,
            phases=[Phase.generate, Phase.shrink] if EXAMPLES and machine is Relevo else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_game_breaks_a_promise():
    play(Relevo, EXAMPLES or 60)


def test_a_refused_commit_is_made_up_for_though_nothing_else_comes(monkeypatch):
    commit, refused = Sender.commit, []

    async def refuse_once(self, offsets):
        if not refused:
            refused.append(offsets)
            raise RequestTimedOutError
        await commit(self, offsets)

    monkeypatch.setattr(Sender, "commit", refuse_once)
    world = World()
    try:
        world.produce([world.new()])
        world.drain()
        assert refused
    finally:
        world.close()


def _drop_on_claim(monkeypatch):
    monkeypatch.setattr(dedupe, "DROPPED", frozenset(Answer) - {Answer.NEW})
    return FakeLedger


def _commit_highest(monkeypatch):
    def complete(self, partition, offset):
        state = self._partitions.get(partition)
        if state is not None:
            state.committable = max(offset + 1, state.committable or 0)

    monkeypatch.setattr(Watermark, "complete", complete)
    return FakeLedger


def _no_claim(_monkeypatch):
    class Careless(FakeLedger):
        async def claim(self, notification_id, attempt, forward=None):
            return True

        async def record(self, outcome):
            self.rows[outcome.id].update(state="queued", attempt=outcome.attempt - 1)
            return await super().record(outcome)

    return Careless


def _mark_before_the_forward(monkeypatch):
    original = dedupe.Deduplicator._write

    async def write(self, items, rejected):
        await self._table.complete([item.claim for item in items])
        await original(self, items, rejected)

    monkeypatch.setattr(dedupe.Deduplicator, "_write", write)
    return FakeLedger


@pytest.mark.parametrize("mistake", [_drop_on_claim, _commit_highest, _no_claim, _mark_before_the_forward])
def test_a_game_is_found_that_shows_the_mistake(monkeypatch, mistake):
    machine = type("Broken", (Relevo,), {"ledger": mistake(monkeypatch)})
    with pytest.raises(AssertionError, match=r"G\d"):
        play(machine, 200)
