"""
`stack.json`: what runs and where, for people, tests and tools.

The keeper is the only writer while it lives; `make down` writes the last word when there is no keeper.
"""

import contextlib
import json
import threading
from typing import Any

from infra.stack.files import write_whole
from infra.stack.home import Home
from infra.stack.identity import Identity

# States of a process: waiting (for what it needs), preparing, starting, running (ready), restarting (it ended and
# comes again), stopping, stopped, failed (a person must act).
Entry = dict[str, Any]


class StackState:
    """
    The contents of stack.json.

    Beside the addresses it holds `processes` (per process: pid, log, state, note, ports, restarts, times), `steps`
    (topics, tables), `ports` (kept between runs), `keeper`, and `asked` (the request that is being served).
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self.contents: dict[str, Any] = read_state(home)

    def set(self, **fields: object) -> None:
        """Set top-level fields."""
        with self._lock:
            self.contents.update(fields)
            self._write()

    def report(self, name: str, **fields: object) -> None:
        """Change what is said of the process *name*."""
        with self._lock:
            self.contents.setdefault("processes", {}).setdefault(name, {}).update(fields)
            self._write()

    def report_step(self, name: str, **fields: object) -> None:
        """Change what is said of the step *name*."""
        with self._lock:
            self.contents.setdefault("steps", {}).setdefault(name, {}).update(fields)
            self._write()

    def forget(self, name: str) -> None:
        """Drop the process *name*: it ended and is no longer wanted."""
        with self._lock:
            self.contents.get("processes", {}).pop(name, None)
            self._write()

    def entry(self, name: str) -> Entry:
        """Return a copy of what is said of the process *name*; empty when nothing is."""
        with self._lock:
            return dict(self.contents.get("processes", {}).get(name, {}))

    @property
    def ports(self) -> dict[str, int]:
        """A copy of the ports by name."""
        with self._lock:
            return dict(self.contents.get("ports", {}))

    def _write(self) -> None:
        # A full disk must not end the keeper: the processes matter more than the file, and the next change tries again.
        with contextlib.suppress(OSError):
            write_whole(self._home.stack_file, json.dumps(self.contents, indent=1))


def read_state(home: Home) -> dict[str, Any]:
    """Return what stack.json says; empty when there is none."""
    try:
        contents = json.loads(home.stack_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def identity_of(entry: Entry) -> Identity | None:
    """Return the process that an entry speaks of; None when it speaks of none."""
    pid, create_time = entry.get("pid"), entry.get("create_time")
    if not isinstance(pid, int) or not isinstance(create_time, float | int):
        return None
    ticks = entry.get("start_ticks")
    return Identity(pid, float(create_time), ticks if isinstance(ticks, int) else None)


def identity_fields(identity: Identity | None) -> Entry:
    """Return the fields of an entry that name a process."""
    if identity is None:
        return {"pid": None, "create_time": None, "start_ticks": None}
    return {"pid": identity.pid, "create_time": identity.create_time, "start_ticks": identity.start_ticks}
