"""The local stack on real processes: servers keep their data through a kill, and what ends comes back."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from infra.stack import servers as local_servers
from infra.stack.attendant import Attendant
from infra.stack.child import Child, Recipe, find_stray
from infra.stack.home import CHECKOUT, Home
from infra.stack.identity import Identity
from infra.stack.ports import free_port, holder, is_free
from infra.stack.state import StackState, identity_of, read_state

SLEEP = "import time; time.sleep(60)"


def until(truth, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not (found := truth()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
    return found


# -- servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory):
    """PostgreSQL and Valkey of this module alone: they are killed."""
    with local_servers.start(tmp_path_factory.mktemp("stack"), ["postgres", "redis"]) as running:
        yield running


async def test_postgres_keeps_what_was_committed_when_it_is_killed(own_servers):
    connection = await asyncpg.connect(own_servers.postgres_dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
    await connection.execute("INSERT INTO kept VALUES (1)")
    own_servers.kill("postgres")
    assert not own_servers.ready("postgres")
    own_servers.start("postgres")
    again = await asyncpg.connect(own_servers.postgres_dsn)
    assert await again.fetchval("SELECT count(*) FROM kept") == 1
    await again.close()


async def test_valkey_keeps_what_it_answered_when_it_is_killed(own_servers):
    async with Redis.from_url(own_servers.redis_url) as client:
        await client.set("kept", "yes")
    own_servers.kill("redis")
    own_servers.start("redis")
    async with Redis.from_url(own_servers.redis_url) as client:
        assert await client.get("kept") == b"yes"
        assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_postgres_starts_where_a_stranger_has_its_old_pid(own_servers):
    own_servers.kill("postgres")
    pid_file = own_servers.home.folder("postgres") / "data" / "postmaster.pid"
    _old, *rest = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *rest]) + "\n")
    own_servers.start("postgres")
    assert own_servers.ready("postgres")


def test_a_paused_server_is_alive_and_not_ready(own_servers):
    own_servers.pause("redis")
    assert own_servers.alive("redis")
    assert not own_servers.ready("redis")
    own_servers.resume("redis")
    until(lambda: own_servers.ready("redis"))


def test_the_servers_of_a_killed_test_run_are_killed_after_it(tmp_path):
    code = f"""
import pathlib, time
from infra.stack import servers
running = servers.start(pathlib.Path({str(tmp_path)!r}), ["redis"])
print(running.pid("redis"), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as run:
        assert run.stdout is not None
        server = Identity.of(int(run.stdout.readline()))
        assert server is not None
        run.kill()
    until(lambda: not server.alive())


# -- ports -----------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_not_free_and_its_holder_is_named():
    code = "import http.server; http.server.HTTPServer(('127.0.0.1', {}), None).serve_forever()"
    port = free_port()
    assert is_free(port)
    with subprocess.Popen([sys.executable, "-c", code.format(port)]) as process:
        until(lambda: not is_free(port))
        assert f"(pid {process.pid})" in str(holder(port))
        process.kill()


# -- one process -----------------------------------------------------------------------------------------------------


def make_recipe(home, code=SLEEP, **changes):
    """A process that runs *code*, and is ready as soon as it runs."""
    fields = {
        "name": "thing",
        "argv": (sys.executable, "-c", code),
        "program": Path(sys.executable),
        "folder": home.folder("thing"),
        "log": home.log("thing"),
        "environment": os.environ,
        "ready": lambda: True,
        "ports": {"thing": free_port()},
    }
    return Recipe(**(fields | changes))


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.root.mkdir(exist_ok=True)
    return home


@pytest.fixture
def attend(home):
    """Make attendants that are ended with the test."""
    made = []

    def make(recipe, *, started=True, move=lambda _name: False):
        gate = threading.Event()
        gate.set()
        attendant = Attendant("thing", recipe if callable(recipe) else lambda: recipe, StackState(home), gate, move)
        attendant.adopted = attendant.adopt()
        made.append(attendant)
        if started:
            attendant.start()
        return attendant

    yield make
    for attendant in made:
        attendant.end()
        if attendant.is_alive():
            attendant.join(10)


def entry(home):
    return read_state(home).get("processes", {}).get("thing", {})


def test_a_process_that_is_killed_comes_back_and_the_status_says_so(home, attend):
    attend(make_recipe(home))
    first = until(lambda: entry(home).get("state") == "running" and identity_of(entry(home)))
    first.send(signal.SIGKILL)
    until(lambda: entry(home)["restarts"] == 1 and entry(home)["state"] == "running")
    assert entry(home)["pid"] != first.pid
    assert "signal 9" in entry(home)["last_end"]


def test_the_next_keeper_takes_back_what_runs(home, attend):
    running = Child(make_recipe(home))
    running.start()
    state = StackState(home)
    state.report("thing", pid=running.identity.pid, create_time=running.identity.create_time, start_ticks=None)
    attendant = attend(make_recipe(home))
    assert attendant.adopted
    until(lambda: entry(home).get("state") == "running")
    assert entry(home)["pid"] == running.identity.pid
    attendant.end()
    attendant.join(10)
    assert not running.alive()


def test_what_nobody_wrote_down_is_found_by_its_folder(home):
    recipe = make_recipe(home)
    running = Child(recipe)
    running.start()
    try:
        assert find_stray(recipe) == running.identity
        assert find_stray(make_recipe(home, folder=home.folder("other"))) is None
    finally:
        running.kill()


def test_a_stranger_with_a_recorded_pid_is_left_alone(home, attend):
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as stranger:
        state = StackState(home)
        state.report("thing", pid=stranger.pid, create_time=time.time() - 9999, start_ticks=1)
        attendant = attend(make_recipe(home))
        assert not attendant.adopted
        attendant.end()
        attendant.join(10)
        assert stranger.poll() is None
        stranger.kill()


def test_a_refused_configuration_waits_for_a_person(home, attend):
    codes = iter(["adopting asks for the recipe, too", "import sys; sys.exit(78)", SLEEP])
    attendant = attend(lambda: make_recipe(home, next(codes)))
    until(lambda: entry(home).get("state") == "failed")
    assert entry(home)["pid"] is None
    attendant.nudge()
    until(lambda: entry(home)["state"] == "running")


def test_a_port_that_a_stranger_took_is_given_up(home, attend):
    ports = {"thing": free_port()}
    code = "import socket, time; s = socket.create_server(('127.0.0.1', {})); print(flush=True); time.sleep(60)"
    stranger = subprocess.Popen([sys.executable, "-c", code.format(ports["thing"])], stdout=subprocess.PIPE)
    with stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()

        def move(_name):
            ports["thing"] = free_port()
            return True

        attend(lambda: make_recipe(home, ports=dict(ports)), move=move)
        until(lambda: entry(home).get("state") == "running")
        assert entry(home)["port"] == ports["thing"]
        stranger.kill()


# -- the whole stack -------------------------------------------------------------------------------------------------


def relevo(home, *command, **settings):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", *command, "--json"],
        cwd=CHECKOUT,
        env=environment | {"RELEVO_HOME": str(home), "RELEVO_HTTP_PORT": "0"} | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def whole_stack(tmp_path):
    """A home for a stack of its own, which is down again after the test."""
    yield tmp_path / "home"
    relevo(tmp_path / "home", "down")


@pytest.mark.timeout(300)
def test_a_stack_comes_up_mends_itself_and_goes_down(whole_stack):
    code, up, said = relevo(whole_stack, "up")
    assert code == 0, said
    assert up["first_notification"]["status"] == "sent"

    code, again, said = relevo(whole_stack, "up")
    assert (code, again["started"]) == (0, False), said

    # Everything at once, the keeper too: the next `up` mends it, and nothing is lost.
    identities = [identity_of(entry) for entry in [up["keeper"], *up["processes"].values()]]
    for identity in identities:
        identity.send(signal.SIGKILL)
    assert relevo(whole_stack, "status")[0] == 1
    code, mended, said = relevo(whole_stack, "up")
    assert code == 0, said
    assert mended["kafka_bootstrap"] == up["kafka_bootstrap"]
    code, status, _said = relevo(whole_stack, "status")
    assert (code, status["ok"]) == (0, True)

    code, down, said = relevo(whole_stack, "down")
    assert code == 0, said
    assert set(down["ended"]) == set(up["processes"])
    left = [process for process in psutil.process_iter() if str(whole_stack) in str(process_folder(process))]
    assert left == []


@pytest.mark.timeout(300)
def test_three_brokers_are_a_cluster_of_which_one_may_be_missing(whole_stack):
    code, up, said = relevo(whole_stack, "up", RELEVO_BROKERS="3")
    assert code == 0, said
    assert up["first_notification"]["status"] == "sent"
    brokers = {"kafka-1", "kafka-2", "kafka-3"}
    assert {name for name in up["processes"] if name.startswith("kafka")} == brokers
    assert up["kafka_bootstrap"] == ",".join(f"127.0.0.1:{up['processes'][name]['port']}" for name in sorted(brokers))

    code, doctor, said = relevo(whole_stack, "doctor")
    assert code == 0, said
    assert "3 brokers" in json.dumps(doctor)

    # One of them ends: the keeper brings it back, and the number is known without being told again.
    first = identity_of(up["processes"]["kafka-2"])
    first.send(signal.SIGKILL)
    code, again, said = relevo(whole_stack, "up")
    assert code == 0, said
    assert identity_of(again["processes"]["kafka-2"]) != first

    assert relevo(whole_stack, "down")[0] == 0
    code, refused, _said = relevo(whole_stack, "up", RELEVO_BROKERS="1")
    assert code != 0
    assert "that of 3 brokers, and RELEVO_BROKERS asks for 1" in json.dumps(refused)


def process_folder(process):
    try:
        return process.cwd()
    except psutil.Error:
        return ""
