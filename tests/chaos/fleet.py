"""
The whole of relevo as the chaos runner has it: every process by name, and what may be done to each.

Each is ended by its own pid, also when the run is interrupted; and when the run itself is killed, a guard kills them.
"""

import asyncio
import contextlib
import operator
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from redis import Redis

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack.child import Child
from infra.stack.guard import Guard
from infra.stack.home import Home
from infra.stack.identity import Identity
from infra.stack.servers import ALL, Servers
from tests.processes import READY_S_MAX, ServiceProcess
from tests.relevo import MailboxProcess, Relevo

START_S_MAX = 90.0


class Member:
    """One process: kill and start it, hold it and let it go on. Every method returns when it is done."""

    def __init__(self, name: str, guard: Guard) -> None:
        self.name = name
        self._guard = guard
        self._held: list[int] = []

    def pid(self) -> int | None:
        raise NotImplementedError

    def spawn(self) -> None:
        """Start it, and wait for nothing."""
        raise NotImplementedError

    def wait_ready(self, timeout_s: float = START_S_MAX) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def terminate(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self.spawn()
        self.wait_ready()

    def pause(self) -> None:
        """Hold it, and all processes below it: PostgreSQL's backends would go on without their parent."""
        pid = self.pid()
        if pid is None:
            return
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    each.suspend()
                    self._held.append(each.pid)

    def resume(self) -> None:
        for pid in self._held:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).resume()
        self._held.clear()

    def watch(self) -> None:
        """Have it killed when this run is."""
        pid = self.pid()
        identity = None if pid is None else Identity.of(pid)
        if identity is not None:
            self._guard.watch(identity)


class Service(Member):
    def __init__(self, process: ServiceProcess, name: str, guard: Guard) -> None:
        super().__init__(name, guard)
        self.process = process

    def pid(self) -> int | None:
        return self.process.pid if self.process.alive else None

    def spawn(self) -> None:
        if not self.process.alive:
            self.process.spawn()
            self.watch()

    def wait_ready(self, timeout_s: float = START_S_MAX) -> None:
        deadline = time.monotonic() + max(timeout_s, READY_S_MAX)
        while self.process.readiness()[0] != 200:
            if not self.process.alive:
                self.spawn()  # a keeper would do as much: it had found a server missing, say
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is not ready: {self.process.readiness()}\n{self.process.tail()}")
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()

    def terminate(self) -> None:
        code = self.process.stop()
        assert code == 0, f"{self.name} ended with {code} after SIGTERM\n{self.process.tail()}"


class Mailbox(Member):
    def __init__(self, mailbox: MailboxProcess, guard: Guard) -> None:
        super().__init__("mailbox", guard)
        self.mailbox = mailbox

    def pid(self) -> int | None:
        process = self.mailbox.process
        return process.pid if process is not None and process.poll() is None else None

    def spawn(self) -> None:
        if self.pid() is None:
            self.mailbox.start()
            self.watch()

    def wait_ready(self, timeout_s: float = START_S_MAX) -> None:
        pass

    def kill(self) -> None:
        self.mailbox.kill()

    def terminate(self) -> None:
        self.mailbox.stop()


class Server(Member):
    """PostgreSQL, Valkey or a broker. ready may be asked only when enough of its cluster runs."""

    def __init__(self, child: Child, name: str, guard: Guard) -> None:
        super().__init__(name, guard)
        self.child = child

    def pid(self) -> int | None:
        return self.child.identity.pid if self.child.identity is not None and self.child.alive() else None

    def spawn(self) -> None:
        if not self.child.alive():
            self.child.recipe.prepare(lambda _text: None)
            self.child.start()
            self.watch()

    def wait_ready(self, timeout_s: float = START_S_MAX) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.child.wait_ready(5.0):
            # PostgreSQL refuses while backends of a killed one linger, and ends.
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name} is not ready; see {self.child.recipe.log}")
            time.sleep(0.3)
            self.spawn()

    def kill(self) -> None:
        self.child.kill()

    def terminate(self) -> None:
        self.child.stop()


class Fleet:
    """
    All processes of one relevo.

    Args:
        home: an empty folder for everything that they keep.
        settings: RELEVO_* for every service, over the fleet's own.
    """

    def __init__(self, home: Path, *, brokers: int = 1, senders: int = 2, **settings: str) -> None:
        self.brokers = brokers
        self.guard = Guard()
        self._place = Home(home / "servers")
        self._place.make()
        self.servers = Servers(self._place, ALL, brokers)
        self.members: dict[str, Member] = {
            name: Server(child, name, self.guard) for name, child in self.servers._children.items()
        }
        self.kafka_bootstrap = self.servers.kafka_bootstrap
        self.postgres_dsn, self.redis_url = self.servers.postgres_dsn, self.servers.redis_url
        (home / "logs").mkdir(parents=True, exist_ok=True)
        self.mailbox = MailboxProcess(home)
        self.members["mailbox"] = Mailbox(self.mailbox, self.guard)
        self.relevo = Relevo(self, self.mailbox, home / "logs", **(_quick() | settings))
        services = {"ingest": self.relevo.ingest, "pipeline": self.relevo.pipeline}
        services |= {f"sender-{n}": self.relevo.service("sender", f"sender-{n}") for n in range(1, senders + 1)}
        self.services = {name: Service(process, name, self.guard) for name, process in services.items()}
        self.members |= self.services

    def up(self, names: Iterable[str] | None = None) -> None:
        """Start what does not run, in the order of need, and wait until all of it is ready."""
        wanted = set(self.members if names is None else names)
        servers = [each for each in self.members.values() if not isinstance(each, Service) and each.name in wanted]
        side_by_side("spawn", servers)
        side_by_side("wait_ready", servers)
        services = [each for each in self.services.values() if each.name in wanted]
        side_by_side("spawn", services)
        side_by_side("wait_ready", services)

    def prepare(self) -> None:
        """Start the servers, and make topics and tables."""
        self.up(name for name in self.members if name not in self.services)
        apply_topics(self.kafka_bootstrap, replication=self.brokers)
        asyncio.run(upgrade(self.postgres_dsn))

    def revive(self) -> list[str]:
        """Start again what nobody killed and is dead all the same, as a keeper would; a sentence about each."""
        dead = [each for each in self.services.values() if not each.process.alive]
        told = [f"{each.name} died by itself: {_end_of(each.process)}" for each in dead]
        self.up(each.name for each in dead)
        return told

    def down(self) -> None:
        """Kill all. Never raises: what could not be ended here the guard kills."""
        for member in reversed(self.members.values()):
            pid = member.pid()
            try:
                if pid is not None:
                    member.kill()
            except Exception as error:  # noqa: BLE001 -- the others must be ended, too
                sys.stderr.write(f"{member.name} (pid {pid}): {error}\n")
        with contextlib.suppress(Exception):
            self.guard.dismiss()
        with contextlib.suppress(Exception):
            self.servers._guard.dismiss()

    def flush_redis(self) -> None:
        """Empty Redis, if it answers."""
        with contextlib.suppress(Exception):
            client = Redis.from_url(self.redis_url, socket_timeout=2.0)
            client.flushall()
            client.close()

    def scenario(self, **wanted: object) -> None:
        """Tell the mailbox how to treat everybody, if it answers."""
        with contextlib.suppress(OSError):
            self.mailbox.scenario(**wanted)


def side_by_side(act: Callable[[Member], None] | str, members: Iterable[Member]) -> None:
    """Do the same to several at once, by the name of the method or by a function; the first error counts."""
    listed = list(members)
    do = operator.methodcaller(act) if isinstance(act, str) else act
    if listed:
        with ThreadPoolExecutor(len(listed)) as pool:
            list(pool.map(do, listed))


def _end_of(process: ServiceProcess) -> str:
    code = None if process.process is None else process.process.poll()
    return f"code {code}, {process.tail()[-300:]}"


def _quick() -> dict[str, str]:
    """Settings with which a run of minutes sees what otherwise takes hours."""
    return {
        "RELEVO_LEASE_S": "5",
        "RELEVO_RETRY_WAIT_S": "1",
        "RELEVO_SMTP_CONNECTIONS_MAX": "50",
        "RELEVO_LOG_LEVEL": "warning",
        "RELEVO_RETRY_LADDER_S": "1,2,3",
    }


def interruptible() -> None:
    """Turn SIGTERM into what Ctrl-C is, so that both clean up."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
