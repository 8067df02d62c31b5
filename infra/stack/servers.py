"""
Only the servers, for tests: PostgreSQL, Valkey and Kafka on free ports, without a keeper.

    servers = start(home)                   # or start(home, brokers=3): kafka-1, kafka-2, kafka-3
    servers.kill("kafka"); servers.start("kafka")
    servers.pause("redis"); servers.resume("redis")
    servers.stop()

Nobody restarts them: a test that kills one decides when it comes back. When the test run itself is killed, they are
killed after it.
"""

import signal
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from infra.stack import cluster
from infra.stack.child import Child, Recipe, find_stray, log_tail
from infra.stack.guard import Guard
from infra.stack.home import Home
from infra.stack.kafka_server import kafka_recipe
from infra.stack.ports import free_port
from infra.stack.postgres_server import postgres_dsn, postgres_recipe
from infra.stack.valkey_server import valkey_recipe, valkey_url
from schemas.errors import ConfigurationError

ALL = ("kafka", "postgres", "redis")

READY_S_MAX = 60.0


class Servers:
    """The servers of one home, and what a test may do to them. Addresses stay the same through kill and start."""

    def __init__(self, home: Home, names: Iterable[str], brokers: int = 1) -> None:
        self.home = home
        self.brokers = cluster.numbered("kafka", brokers)
        self._ports = {
            name: free_port()
            for name in ("postgres", "redis", *self.brokers, *map(cluster.controller_port, self.brokers))
        }
        several = [each for name in names for each in (self.brokers if name == "kafka" else (name,))]
        self._children = {name: Child(self._recipe(name)) for name in several}
        self._guard = Guard()

    @property
    def kafka_bootstrap(self) -> str:
        """Where Kafka listens, `host:port`; with several brokers all of them, separated by commas."""
        return cluster.bootstrap(self.brokers, self._ports)

    @property
    def postgres_dsn(self) -> str:
        """Where PostgreSQL listens, with the password; an empty database, no tables."""
        return postgres_dsn(self.home, self._ports["postgres"])

    @property
    def redis_url(self) -> str:
        """Where Valkey listens."""
        return valkey_url(self._ports["redis"])

    def pid(self, name: str) -> int:
        """Return the pid of a server that was started."""
        identity = self._children[name].identity
        assert identity is not None, f"{name} was never started"
        return identity.pid

    def alive(self, name: str) -> bool:
        """Tell whether it runs, paused or not."""
        return self._children[name].alive()

    def ready(self, name: str) -> bool:
        """Tell whether it answers."""
        return self._children[name].ready()

    def log(self, name: str) -> Path:
        """Return its log file."""
        return self._children[name].recipe.log

    def start(self, name: str, timeout_s: float = READY_S_MAX) -> None:
        """
        Start it and wait until it answers; nothing happens when it already does.

        One that ends while it starts is tried again: PostgreSQL refuses while backends of a killed server linger.

        Raises:
            ConfigurationError: not ready in time; with the end of its log.
        """
        child, deadline = self._children[name], time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not child.alive():
                child.recipe.prepare(lambda _text: None)
                child.start()
                if child.identity:
                    self._guard.watch(child.identity)
            if child.wait_ready(deadline - time.monotonic()):
                return
            time.sleep(0.3)
        child.kill()
        raise ConfigurationError(f"{name} is not ready after {timeout_s:.0f} s:\n{log_tail(child.recipe.log)}")

    def kill(self, name: str) -> None:
        """End it with SIGKILL; returns when it is gone and reaped."""
        self._children[name].kill()

    def terminate(self, name: str) -> None:
        """End it in its own way; returns when it is gone."""
        self._children[name].stop()

    def pause(self, name: str) -> None:
        """Hold it with SIGSTOP: connections stay open, nothing is answered."""
        self._children[name].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let it go on."""
        self._children[name].send(signal.SIGCONT)

    def start_all(self) -> None:
        """Start all of them side by side."""
        with ThreadPoolExecutor(len(self._children)) as pool:
            list(pool.map(self.start, self._children))

    def stop(self) -> None:
        """End all of them. Their data stays in the home."""
        with ThreadPoolExecutor(len(self._children)) as pool:
            list(pool.map(Child.stop, self._children.values()))
        self._guard.dismiss()

    def __enter__(self) -> Self:
        """Return itself, started or not."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End all of them."""
        self.stop()

    def end_strays(self) -> None:
        """End what an earlier run under the same home left behind because it was killed."""
        for child in self._children.values():
            if stray := find_stray(child.recipe):
                Child(child.recipe, stray).stop()

    def _recipe(self, name: str) -> Recipe:
        if name == "postgres":
            return postgres_recipe(self.home, self._ports["postgres"])
        if name == "redis":
            return valkey_recipe(self.home, self._ports["redis"])
        return kafka_recipe(self.home, cluster.node(name, self.brokers, self._ports), name=name)


def start(home: Path, names: Iterable[str] = ALL, *, brokers: int = 1) -> Servers:
    """
    Start the servers *names* under *home* on free ports, side by side, and wait until each answers.

    Data that lies under *home* is used again; what a killed run left running there is ended first.

    Args:
        brokers: how many nodes Kafka has. One is called kafka, several are called kafka-1, kafka-2 and so on.
    Raises:
        ConfigurationError: one of them does not come up, or its files cannot be had; none is left running.
    """
    place = Home(home)
    place.make()
    cluster.check_brokers(place, brokers)
    servers = Servers(place, names, brokers)
    servers.end_strays()
    try:
        servers.start_all()
    except BaseException:
        servers.stop()
        raise
    return servers
