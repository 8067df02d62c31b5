"""
Outages, each under load by both doors: they cost time, not data (G6).

What each test prints is worth reading: `pytest -rP tests/e2e/test_outages.py`.
"""

import contextlib
import json
import sys
import time
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from tests.load import Load
from tests.processes import eventually, get_json
from tests.relevo import Relevo
from tests.slow_proxy import SlowProxy

# Kafka and Redis are away for a minute, the others for as long as it takes to see that it does not matter.
LONG_S = 60.0
SHORT_S = 15.0
DRAINED_S_MAX = 60.0
# Growth of what a process holds: over a whole outage, and the allocator's own steps on top of it.
MEMORY_GROWTH_MAX = 1.4
# Of one core, by a service whose server is away.
CPU_AWAY_MAX = 0.5

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def redis_proxy(servers):
    address = urlsplit(servers.redis_url)
    proxy = SlowProxy(address.hostname, address.port)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def collector_proxy(collector):
    address = urlsplit(collector.url)
    proxy = SlowProxy(address.hostname, address.port)
    proxy.start()
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def exposed(relevo, servers, mailbox, redis_proxy, collector_proxy, tmp_path_factory):
    """relevo with proxies before Redis and the collector, in place of the one that all tests share."""
    relevo.stop()
    running = Relevo(
        servers,
        mailbox,
        tmp_path_factory.mktemp("exposed"),
        RELEVO_REDIS_URL=servers.redis_url.replace(str(urlsplit(servers.redis_url).port), str(redis_proxy.port)),
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector_proxy.port}",
        OTEL_BSP_SCHEDULE_DELAY="200",
        OTEL_TRACES_SAMPLER="parentbased_always_on",
    )
    try:
        running.start()
        yield running
    finally:
        running.stop()
        relevo.start()


class Watch:
    """CPU and memory of each service, during an outage and over it."""

    def __init__(self, relevo):
        self.processes = {service.module: psutil.Process(service.pid) for service in relevo.services}
        self.before = self._memory()

    def _memory(self):
        return {name: process.memory_info().rss for name, process in self.processes.items()}

    @contextlib.contextmanager
    def outage(self):
        cpu = {name: sum(process.cpu_times()[:2]) for name, process in self.processes.items()}
        begun = time.monotonic()
        yield
        lasted = time.monotonic() - begun
        self.cpu = {
            name: round((sum(process.cpu_times()[:2]) - cpu[name]) / lasted, 3)
            for name, process in self.processes.items()
        }

    def report(self, what, load, drained_s, **more):
        """Print what was seen, and hold memory against its bound."""
        growth = {name: round(rss / self.before[name], 2) for name, rss in self._memory().items()}
        answers = dict(load.answers_since(0))
        figures = {"outage": what, "accepted": len(load.accepted), "http": answers, "cpu_during": self.cpu}
        figures |= {"memory_growth": growth, "drained_s": round(drained_s, 1)} | more
        sys.stdout.write(json.dumps(figures) + "\n")
        assert all(each < MEMORY_GROWTH_MAX for each in growth.values()), growth


@contextlib.contextmanager
def under_load(relevo, *, duplicates=0.0):
    """Load that is known to flow; yields the load and a watch."""
    for service in relevo.services:
        eventually(lambda service=service: service.readiness()[0] == 200, 30)
    with Load(relevo, patient=False, duplicates=duplicates) as load:
        eventually(lambda: len(load.rows()) > 50, 20)
        yield load, Watch(relevo)


def break_and_heal(relevo, what, break_it, heal, *, lasts_s=SHORT_S, in_doubt_max=0, during=lambda: None):
    """Break, wait, heal under load; return the load, the ledger's rows, and HTTP answers given meanwhile."""
    with under_load(relevo) as (load, watch):
        with watch.outage():
            break_it()
            try:
                begun = time.monotonic()
                time.sleep(lasts_s / 2)
                during()
                time.sleep(lasts_s / 2)
                # What was asked before it broke may be answered after.
                answers = load.answers_since(begun + 1)
            finally:
                # Whatever was found: the next test begins with all servers in order.
                heal()
        healed = time.monotonic()
        time.sleep(2)
    rows = load.settle(DRAINED_S_MAX - (time.monotonic() - healed), in_doubt_max=in_doubt_max)
    for service in relevo.services:
        eventually(lambda service=service: service.readiness()[0] == 200, 30)
    watch.report(what, load, time.monotonic() - healed, during=dict(answers), in_doubt=in_doubt(rows))
    return rows, answers, watch


def in_doubt(rows):
    return sum(state == "in_doubt" for state, _ in rows.values())


def went_on(answers, lasted_s=SHORT_S):
    assert set(answers) == {202}, answers
    assert answers[202] > lasted_s * 10
    return True


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_while_kafka_is_away_accepting_goes_on_and_nobody_burns_a_core(exposed, servers, how):
    break_it, heal = (servers.kill, servers.start) if how == "killed" else (servers.pause, servers.resume)
    _, answers, watch = break_and_heal(
        exposed, f"kafka {how}", lambda: break_it("kafka"), lambda: heal("kafka"), lasts_s=LONG_S
    )
    assert went_on(answers, LONG_S)
    assert all(each < CPU_AWAY_MAX for each in watch.cpu.values()), watch.cpu


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_while_redis_is_away_accepting_goes_on_and_nothing_is_acknowledged(exposed, servers, how):
    break_it, heal = (servers.kill, servers.start) if how == "killed" else (servers.pause, servers.resume)

    def during():
        status, answer = exposed.pipeline.readiness()
        assert (status, list(answer["reasons"])) == (503, ["redis"])

    _, answers, _ = break_and_heal(
        exposed, f"redis {how}", lambda: break_it("redis"), lambda: heal("redis"), lasts_s=LONG_S, during=during
    )
    assert went_on(answers, LONG_S)


def test_a_redis_that_is_emptied_again_and_again_costs_copies_in_a_topic_and_no_mail(exposed, servers):
    forwards = 'relevo_deduped_total{answer="%s"}'
    with under_load(exposed, duplicates=0.2) as (load, watch):
        duplicates = exposed.pipeline.metric(forwards % "duplicate")
        with watch.outage():
            for _ in range(8):
                time.sleep(1)
                Redis.from_url(servers.redis_url).flushall()
        time.sleep(1)
    ended = time.monotonic()
    load.settle(DRAINED_S_MAX)
    watch.report(
        "redis emptied",
        load,
        time.monotonic() - ended,
        dropped=exposed.pipeline.metric(forwards % "duplicate") - duplicates,
    )


@pytest.mark.parametrize("delay_s", [0.25, 1.5], ids=["slow", "slower than anyone waits"])
def test_a_slow_redis_costs_time_and_holds_up_no_answer(exposed, redis_proxy, delay_s):
    def slow(seconds):
        redis_proxy.delay_s = seconds

    def during():
        took_s = []
        for _ in range(3):
            begun = time.monotonic()
            assert get_json(f"{exposed.url}/healthz")[0] in {200, 503}
            took_s.append(time.monotonic() - begun)
        # The machine adds to it, and never takes away.
        assert min(took_s) < 0.1

    _, answers, _ = break_and_heal(
        exposed, f"redis {delay_s} s each way", lambda: slow(delay_s), lambda: slow(0), during=during
    )
    assert went_on(answers)


def test_without_postgres_nothing_is_accepted_and_nothing_sent_and_nothing_lost(exposed, servers):
    # Those that were claimed at that moment, and whose outcome could not be written until their lease had run out.
    _, answers, _ = break_and_heal(
        exposed,
        "postgres killed",
        lambda: servers.kill("postgres"),
        lambda: servers.start("postgres"),
        in_doubt_max=10,
    )
    assert answers.keys() <= {503}, answers
    assert answers[503] > 0


def test_while_the_relay_is_away_no_attempt_is_burnt(exposed, mailbox):
    # But for those that were under way, claimed, when it died: one for each connection at most.
    rows, answers, _ = break_and_heal(exposed, "smtp killed", mailbox.kill, mailbox.start, in_doubt_max=10)
    assert went_on(answers)
    burnt = [each for each, (state, attempt) in rows.items() if attempt != 1]
    assert len(burnt) <= 10, f"{len(burnt)} of {len(rows)} have more than one attempt"
    assert max(attempt for _, attempt in rows.values()) <= 2


def test_a_collector_that_never_answers_is_nobody_s_concern(exposed, collector_proxy):
    def silent(how):
        collector_proxy.silent = how

    _, answers, _ = break_and_heal(exposed, "collector silent", lambda: silent(True), lambda: silent(False))
    assert went_on(answers)
