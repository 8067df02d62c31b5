"""Bring a stack up: say what is wanted, see that a keeper works on it, and follow until all of it is ready."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from infra.stack.child import bound_log
from infra.stack.following import Follower, NotUpError
from infra.stack.home import Home, sentences_about, with_checkout
from infra.stack.identity import Identity
from infra.stack.ports import holder, is_free
from infra.stack.state import identity_of, read_state
from infra.stack.wanted import Wanted
from schemas.errors import ConfigurationError

_LOOK_S = 0.1
_KEEPER_S_MAX = 15.0


def bring_up(home: Home, show: Callable[[dict[str, Any]], None]) -> tuple[Wanted, bool]:
    """
    Bring up what the environment asks for, or what is missing of it, and wait until all of it is ready.

    Args:
        show: called with the contents of stack.json while it goes on.
    Returns:
        What is wanted, and whether any process had to be started.
    Raises:
        ConfigurationError: a setting, a port, the disk or the network is in the way; says what to do.
        NotUpError: a process does not become ready; what could be started goes on running.
    """
    home.make()
    with sentences_about(home.root), _one_at_a_time(home):
        before = read_state(home)
        wanted = Wanted.from_environment(Wanted.load(home)).with_brokers_of(home)
        _check_door(wanted, before)
        wanted.save(home)
        keeper = _call_keeper(home, before)
        follower = Follower(wanted.asked)
        while not follower.is_up(contents := read_state(home)):
            if contents.get("asked") == wanted.asked:  # before that it tells of the last run
                show(contents)
            if not keeper.alive():
                raise NotUpError("The keeper of the stack ended while it was at work.", home.log("keeper"))
            time.sleep(_LOOK_S)
        show(contents)
        wanted.save_as_up(home)
    return wanted, _pids(before) != _pids(contents)


def keeper_runs(home: Home) -> bool:
    """Tell whether a keeper watches this home: it holds a lock as long as it lives, however it ends."""
    try:
        with home.keeper_lock.open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _one_at_a_time(home: Home) -> Iterator[None]:
    """Let a second `make up` of the same home wait for the first; it will then find everything running."""
    with home.up_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_door(wanted: Wanted, before: dict[str, Any]) -> None:
    """Refuse to begin when a stranger has the port of the public door: only a person can choose another."""
    port = wanted.http_port
    if port == 0 or is_free(port):
        return
    ingest = identity_of(before.get("processes", {}).get("ingest", {}))
    if before.get("ports", {}).get("http") == port and ingest is not None and ingest.alive():
        return
    who = holder(port)
    other = next(number for number in range(port + 1, 65536) if is_free(number))
    raise ConfigurationError(
        f"Port {port}, where relevo answers HTTP, is taken by {who or 'another process'}. "
        f"End that one, or take another port: RELEVO_HTTP_PORT={other} make up"
    )


def _call_keeper(home: Home, before: dict[str, Any]) -> Identity:
    """Tell the keeper to look at what is wanted now, or start one."""
    recorded = identity_of(before.get("keeper") or {})
    if keeper_runs(home) and recorded is not None:
        recorded.send(signal.SIGHUP)
        return recorded
    log = home.log("keeper")
    bound_log(log)
    with log.open("ab") as output:
        keeper = subprocess.Popen(
            (sys.executable, "-m", "infra.stack.keeper", str(home.root)),
            cwd=home.root,
            env=with_checkout(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: it outlives the terminal, and an interrupt typed there does not reach it.
            start_new_session=True,
        )
    deadline = time.monotonic() + _KEEPER_S_MAX
    while time.monotonic() < deadline and keeper.poll() is None:
        now = identity_of(read_state(home).get("keeper") or {})
        if now is not None and now.pid == keeper.pid:
            return now
        time.sleep(0.02)
    raise NotUpError("The keeper of the stack did not start.", log)


def _pids(contents: dict[str, Any]) -> dict[str, object]:
    return {name: (entry.get("pid"), entry.get("create_time")) for name, entry in contents.get("processes", {}).items()}
