"""Following a stack that comes up: is it up, and if not, is it in trouble that waiting will not mend."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra.stack.child import log_tail
from schemas.errors import ConfigurationError

# Seconds that a process or step may spend in one state and note. Preparing may mean a slow download, which says
# something new with each file.
_PATIENCE_S = {"preparing": 180.0, "starting": 60.0, "working": 120.0}

# Seconds that the keeper may take to look at a request: it first ends what is no longer wanted.
_TAKEN_UP_S_MAX = 90.0

# A process that ended so often since it was asked for will not come up. PostgreSQL may need a few starts after a
# kill -9, until the last of its old processes has gone.
_ENDS_MAX = 6


class NotUpError(ConfigurationError):
    """The stack did not come up. Says what is wrong, and has the log of what did not start."""

    def __init__(self, sentence: str, log: Path | None = None, log_start_bytes: int = 0) -> None:
        super().__init__(sentence)
        self.log = log
        self._log_start_bytes = log_start_bytes

    def log_lines(self) -> str:
        """Return the end of that log; empty when there is none."""
        return log_tail(self.log, start_bytes=self._log_start_bytes) if self.log else ""


class Follower:
    """Judges one contents of stack.json after the other, for the request *asked*."""

    def __init__(self, asked: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._asked = asked
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._ends_before: dict[str, int] = {}
        self._since: dict[str, tuple[object, float]] = {}

    def is_up(self, contents: Mapping[str, Any]) -> bool:
        """
        Tell whether every process is ready.

        Raises:
            NotUpError: one of them, or a step, will not be.
        """
        if contents.get("asked") != self._asked:
            if self._clock_s() - self._began_s > _TAKEN_UP_S_MAX:
                raise NotUpError("The keeper of the stack does not answer; `make down` ends it.")
            return False
        processes = contents.get("processes", {})
        for name, entry in processes.items():
            self._check(name, entry, done="running")
            ends = int(entry.get("restarts") or 0)
            ends -= self._ends_before.setdefault(name, ends)
            if ends >= _ENDS_MAX:
                raise _not_up(f"{name} {entry.get('note')}, for the {ends}th time.", entry)
        for name, step in contents.get("steps", {}).items():
            self._check(f"The step {name!r}", step, done="done")
        return all(entry.get("state") == "running" for entry in processes.values())

    def _check(self, name: str, entry: Mapping[str, Any], *, done: str) -> None:
        state, note, now_s = str(entry.get("state")), entry.get("note"), self._clock_s()
        if state == "failed":
            raise _not_up(f"{name} did not start: {str(note).rstrip('.')}.", entry)
        said, since_s = self._since.get(name, (None, now_s))
        if said != (state, note):
            self._since[name] = ((state, note), now_s)
        elif state != done and now_s - since_s > _PATIENCE_S.get(state, float("inf")):
            raise _not_up(f"{name} is not ready after {now_s - since_s:.0f} s.", entry)


def _not_up(sentence: str, entry: Mapping[str, Any]) -> NotUpError:
    log = entry.get("log")
    return NotUpError(sentence, Path(log) if log else None, int(entry.get("log_start_bytes") or 0))
