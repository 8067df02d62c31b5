"""Ending a stack that has no keeper: by what stack.json recorded, and only that."""

import signal
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from infra.stack.child import Child, find_stray
from infra.stack.cluster import kind_of
from infra.stack.home import Home
from infra.stack.plan import Plan
from infra.stack.state import Entry, StackState, identity_fields, identity_of
from infra.stack.wanted import Wanted

_SERVERS = {"kafka", "postgres", "redis", "mailbox"}
_STOP_S_MAX = 30.0


def end_recorded(entry: Entry) -> None:
    """End the process of one entry of stack.json, if exactly that process still runs. Returns when it is gone."""
    identity = identity_of(entry)
    if identity is not None and identity.alive():
        identity.end(signal.Signals[entry.get("stop_signal") or "SIGTERM"], _STOP_S_MAX)


def end_all(home: Home) -> None:
    """End the services, then the servers, of a stack whose keeper is gone. Data stays."""
    state = StackState(home)
    names = list(state.contents.get("processes", {}))
    servers = [name for name in names if kind_of(name) in _SERVERS]
    for group in ([name for name in names if name not in servers], servers):
        with ThreadPoolExecutor(max(1, len(group))) as pool:
            list(pool.map(lambda name: _end(state, name), group))
    _end_strays(home, state)
    home.wanted_file.unlink(missing_ok=True)
    state.set(keeper=None, steps={})


def _end(state: StackState, name: str) -> None:
    end_recorded(state.entry(name))
    state.report(name, state="stopped", note="", **identity_fields(None))


def _end_strays(home: Home, state: StackState) -> None:
    """End what a keeper had started but not yet written down when it was killed."""
    wanted = Wanted.load(home)
    if wanted is None:
        return
    plan = Plan(home, wanted, defaultdict(int, state.ports))
    for name in (*plan.services, *plan.servers):
        recipe = plan.recipe(name)
        if stray := find_stray(recipe):
            Child(recipe, stray).stop()
