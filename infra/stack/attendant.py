"""The life of one process: made ready, started, watched, started again. One thread for each."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from infra.stack.backoff import Backoff
from infra.stack.child import Child, Recipe, bound_log, find_stray
from infra.stack.ports import holder, is_free
from infra.stack.state import StackState, identity_fields, identity_of
from schemas.errors import ConfigurationError

# What a service ends with when a person must mend its configuration: infra.lifecycle.EXIT_CONFIGURATION, not imported
# because the keeper needs none of what that module brings along.
_EXIT_CONFIGURATION = 78

_LOOK_S = 0.2
_LOOK_READY_S = 0.1
_LOG_LOOK_S = 30.0


class Attendant(threading.Thread):
    """
    Keeps one process running until it is told to end it.

    recipe is asked anew before each start, so a process comes back with the settings and ports of that moment. gate
    holds the start back until what the process needs is there. move is called with the name when a port is taken:
    it finds another port and returns True, or returns False when the port is fixed.
    """

    def __init__(
        self,
        name: str,
        recipe: Callable[[], Recipe],
        state: StackState,
        gate: threading.Event,
        move: Callable[[str], bool],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._recipe = recipe
        self._state = state
        self._gate = gate
        self._move = move
        self._wake = threading.Event()
        self._ending = False
        self._restarting = False
        self._backoff = Backoff()
        self._child: Child | None = None
        self._started_s = time.monotonic()
        self.is_ready = threading.Event()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._child is not None and self._child.alive()

    def adopt(self) -> bool:
        """
        Take back the process of this name that an earlier keeper started; to be called before the thread starts.

        Returns:
            Whether there is one.
        """
        try:
            recipe = self._recipe()
        except ConfigurationError:
            return False  # the start will meet the same, and say it
        recorded = identity_of(self._state.entry(self.name))
        identity = recorded if recorded and recorded.alive() else find_stray(recipe)
        if identity and 0 in recipe.ports.values():
            # Nobody knows where it listens: stack.json was removed under it.
            identity.end(recipe.stop_signal, recipe.stop_s_max)
            identity = None
        if identity is None:
            self._report(state="waiting", note="", log=str(recipe.log), **identity_fields(None))
            self._report(restarts=0, last_end=None)
            return False
        self._child = Child(recipe, identity)
        self._report(**identity_fields(identity))
        return True

    def nudge(self) -> None:
        """Start it now if it waits for its turn, and count its troubles anew."""
        self._backoff.reset()
        self._wake.set()

    def restart_if_changed(self) -> None:
        """End the process and start it again when it was started with other settings than its recipe has now."""
        if self.alive and self._state.entry(self.name).get("settings") != self._recipe().settings_mark():
            self._restarting = True
            self._wake.set()

    def end(self) -> None:
        """End the process and then the thread; join() it to know when."""
        self._ending = True
        self._wake.set()

    def run(self) -> None:
        """Attend until told to end."""
        while not self._ending:
            self._wake.clear()
            if self.alive or self._start():
                self._watch()
        self.is_ready.clear()
        if self._child is not None and self.alive:
            self._report(state="stopping", note="")
            self._child.stop()
        self._report(state="stopped", note="", **identity_fields(None))

    def _start(self) -> bool:
        """Start the process; on trouble say so, wait for the time that is right, and return False."""
        if not self._gate.is_set():
            self._report(state="waiting", note="for the servers, topics and tables")
            while not self._gate.wait(_LOOK_S):
                if self._ending:
                    return False
        try:
            recipe = self._recipe()
            self._report(state="preparing", note="")
            recipe.prepare(lambda step: self._report(note=step))
            taken = next((port for port in recipe.ports.values() if not is_free(port)), None)
            if taken is not None:
                if not self._move(self.name):
                    self._pause(f"port {taken} is taken by {holder(taken) or 'another process'}")
                return False
            child = Child(recipe)
            child.start()
        except ConfigurationError as refusal:
            self._fail(str(refusal))
            return False
        except Exception as error:  # noqa: BLE001 -- whatever it is, the status must say it and the next try may work
            self._pause(f"{type(error).__name__}: {error}")
            return False
        self._child, self._started_s = child, time.monotonic()
        self._report(**identity_fields(child.identity), settings=recipe.settings_mark())
        return True

    def _watch(self) -> None:
        """Wait until the process is ready, then until it ends or must; say each, and wait before the next start."""
        child = self._child
        assert child is not None
        self._say_started(child)
        looked_at_log_s = time.monotonic()
        while child.alive() and not self._ending and not self._restarting:
            if not self.is_ready.is_set() and child.recipe.ready():
                self.is_ready.set()
                self._report(state="running", note="", ready_at=_now())
            if time.monotonic() - looked_at_log_s > _LOG_LOOK_S:
                looked_at_log_s = time.monotonic()
                bound_log(child.recipe.log)
            self._wake.wait(_LOOK_S if self.is_ready.is_set() else _LOOK_READY_S)
            self._wake.clear()
        if self._ending:
            return
        self.is_ready.clear()
        if self._restarting:
            self._restarting = False
            self._report(state="restarting", note="its settings changed")
            child.stop()
        else:
            self._account_for(child)

    def _say_started(self, child: Child) -> None:
        recipe = child.recipe
        self._report(
            state="starting",
            note="",
            started_at=_now() if child.identity is None else _time(child.identity.create_time),
            log=str(recipe.log),
            log_start_bytes=child.log_start_bytes,
            port=next(iter(recipe.ports.values())),  # what a client asks for comes first
            ops_port=recipe.ops_port,
            stop_signal=recipe.stop_signal.name,
        )

    def _account_for(self, child: Child) -> None:
        code = child.exit_code()
        if code == _EXIT_CONFIGURATION:
            self._fail("it refused its configuration; its log says why")
            return
        how = "ended" if code is None else f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        self._pause(how, lived_s=time.monotonic() - self._started_s)

    def _pause(self, reason: str, *, lived_s: float = 0.0) -> None:
        """Say why it is down and when it comes again; wait until then, or until somebody asks for it."""
        wait_s = self._backoff.after(lived_s)
        restarts = int(self._state.entry(self.name).get("restarts") or 0) + 1
        note = f"{reason}; started again after {wait_s:g} s"
        last_end = f"{reason} at {_now()}"
        self._report(state="restarting", note=note, last_end=last_end, restarts=restarts, **identity_fields(None))
        if not self._ending:
            self._wake.wait(wait_s)

    def _fail(self, reason: str) -> None:
        """Say what a person must do; wait until somebody has done it and asks again."""
        self._report(state="failed", note=reason, **identity_fields(None))
        if not self._ending:
            self._wake.wait()

    def _report(self, **fields: object) -> None:
        if "state" in fields:
            # One string with its own line end: threads that print in parts write into each other's lines.
            print(f"{_now()} {self.name} {fields['state']} {fields.get('note') or ''}\n", end="", flush=True)
        self._state.report(self.name, **fields)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds")
