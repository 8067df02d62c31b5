"""
The keeper: one detached process that starts a stack, watches it, and starts again what ends.

`python -m infra.stack.keeper HOME`. SIGHUP: look again at what is wanted. SIGTERM: end everything, services first.
It may be killed at any moment: what it started goes on, and the next keeper takes it back.
"""

import fcntl
import os
import select
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from infra.stack.attendant import Attendant
from infra.stack.ending import end_recorded
from infra.stack.home import Home
from infra.stack.identity import Identity
from infra.stack.plan import Plan
from infra.stack.ports import choose, free_port
from infra.stack.state import StackState, identity_fields
from infra.stack.steps import Preparation
from infra.stack.wanted import Wanted, put_into_environment


class Keeper:
    """Makes what runs agree with what is wanted. reconcile and stop belong to the main thread."""

    def __init__(self, home: Home, wake: int) -> None:
        self._home = home
        self._wake = wake
        self.state = StackState(home)
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._attendants: dict[str, Attendant] = {}
        self._always = threading.Event()
        self._always.set()
        self._prepared = threading.Event()
        self._preparation: Preparation | None = None
        self._stopping = False

    @property
    def plan(self) -> Plan:
        """The stack as it is wanted now."""
        assert self._plan is not None, "reconcile comes first"
        return self._plan

    def reconcile(self) -> None:
        """Take up what is wanted: end what is not, start what is missing, restart what has other settings."""
        wanted = Wanted.load(self._home)
        if wanted is None:
            return
        put_into_environment(wanted)
        # With the ports of the last run, which are those of what still runs; a port that is not known yet is 0.
        self._plan = plan = Plan(self._home, wanted, defaultdict(int, self.state.ports))
        names = (*plan.servers, *plan.services)
        self._end_unwanted(names)
        fresh = [name for name in names if name not in self._attendants]
        for name in fresh:
            self._attendants[name] = self._attend(name)
        self._give_ports(plan)
        for name in (*plan.servers_of("kafka"), *plan.services):
            self._attendants[name].restart_if_changed()
        self._prepare_if_missing()
        for name in names:
            if name in fresh:
                self._attendants[name].start()
            else:
                self._attendants[name].nudge()
        self.state.set(asked=wanted.asked)

    def stop(self) -> None:
        """End the services, then the servers, and say so. Data stays."""
        self._stopping = True
        servers = {name: self._attendants[name] for name in self._attendants if name in self.plan.servers}
        services = [attendant for name, attendant in self._attendants.items() if name not in servers]
        for group in (services, servers.values()):
            for attendant in group:
                attendant.end()
            for attendant in group:
                attendant.join()
        self.state.set(keeper=None, steps={})

    def _attend(self, name: str) -> Attendant:
        gate = self._always if name in self.plan.servers else self._prepared
        attendant = Attendant(name, lambda: self.plan.recipe(name), self.state, gate, self._move)
        attendant.adopt()
        return attendant

    def _end_unwanted(self, wanted: Iterable[str]) -> None:
        for name in [name for name in self._attendants if name not in wanted]:
            attendant = self._attendants.pop(name)
            attendant.end()
            attendant.join()
            self.state.forget(name)
        for name in [name for name in self.state.contents.get("processes", {}) if name not in wanted]:
            end_recorded(self.state.entry(name))
            self.state.forget(name)

    def _give_ports(self, plan: Plan) -> None:
        """Give a port to all that do not run yet; what runs keeps its own."""
        with self._lock:
            ports = self.state.ports
            waiting = [name for name, attendant in self._attendants.items() if not attendant.alive]
            for name in plan.port_names_of(waiting):
                taken = {port for other, port in ports.items() if other != name}
                ports[name] = choose(name, before=ports.get(name), taken=taken)
            ports["http"] = plan.wanted.http_port or ports.get("http") or free_port()
            self._use(ports)

    def _move(self, process: str) -> bool:
        """Find other ports for *process*, one of whose ports a stranger has; False when it is the door's."""
        with self._lock:
            ports = self.state.ports
            for name in self.plan.port_names_of([process]):
                taken = {port for other, port in ports.items() if other != name}
                ports[name] = choose(name, before=ports.get(name), taken=taken)
            moved = ports != self.state.ports
            if moved:
                self._use(ports)
                # Services that were started with the old address have other settings now.
                os.write(self._wake, bytes([signal.SIGHUP]))
            return moved

    def _use(self, ports: dict[str, int]) -> None:
        self._plan = Plan(self._home, self.plan.wanted, ports)
        self.state.set(**self._plan.addresses(), ports=ports)

    def _prepare_if_missing(self) -> None:
        """Apply topics and tables before any service is started; with all of them running there is nothing to do."""
        if all(self._attendants[name].alive for name in self.plan.services):
            self._prepared.set()
        elif self._preparation is None or not self._preparation.is_alive():
            self._prepared.clear()
            self._preparation = Preparation(
                self._home, self.state, self._wait_for, self.plan.environment, self._prepared.set
            )
            self._preparation.start()

    def _wait_for(self, kind: str) -> bool:
        """
        Wait until every server of *kind* is ready; at once when it is not ours to start.

        All brokers, not the first of them: a topic cannot have more replicas than there are brokers.
        Returns:
            False when it is no longer wanted.
        """
        while not self._stopping:
            attendants = [self._attendants.get(name) for name in self.plan.servers_of(kind)]
            if None in attendants:
                return False
            missing = next((each for each in attendants if each and not each.is_ready.is_set()), None)
            if missing is None:
                return True
            missing.is_ready.wait(0.5)
        return False


def main(root: Path) -> None:
    """Keep the stack of the home *root* until SIGTERM; end at once when it has a keeper already."""
    home = Home(root)
    lock = home.keeper_lock.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    # Signals arrive as bytes: a handler that touched an Event could meet the lock that its own thread holds.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    keeper = Keeper(home, writer)
    keeper.state.set(keeper={**identity_fields(Identity.of(os.getpid())), "log": str(home.log("keeper"))})
    keeper.reconcile()
    while True:
        select.select([reader], [], [])
        asked = set(os.read(reader, 512))
        if asked & {signal.SIGTERM, signal.SIGINT}:
            keeper.stop()
            # Not by returning: a thread that waits for a server which will not come would hold the process.
            os._exit(0)
        keeper.reconcile()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
