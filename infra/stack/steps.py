"""What must be done once the servers run and before the services start: the topics and the tables."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from infra.stack.child import bound_log, log_tail
from infra.stack.home import Home
from infra.stack.state import StackState

# By name: the kind of server that it needs, and the command of `relevo` that does it. Each may be run again at will.
STEPS = {
    "topics": ("kafka", ("topics", "apply")),
    "tables": ("postgres", ("db", "upgrade")),
}

_TRIES = 4


class Preparation(threading.Thread):
    """
    Does every step, side by side, each as soon as its server is ready.

    done is called when all are done. A step that goes on failing is said in the state; the next request for the stack
    begins a new preparation.
    """

    def __init__(
        self,
        home: Home,
        state: StackState,
        wait_for: Callable[[str], bool],
        environment: Callable[[], Mapping[str, str]],
        done: Callable[[], None],
    ) -> None:
        super().__init__(name="preparation", daemon=True)
        self._home = home
        self._state = state
        self._wait_for = wait_for
        self._environment = environment
        self._done = done

    def run(self) -> None:
        """Do the steps; see the class."""
        for step in STEPS:
            self._state.report_step(step, state="waiting", note="", log=str(self._home.log(step)))
        with ThreadPoolExecutor(len(STEPS)) as pool:
            if all(list(pool.map(self._do, STEPS))):
                self._done()

    def _do(self, step: str) -> bool:
        server, command = STEPS[step]
        if not self._wait_for(server):
            return False
        log = self._home.log(step)
        bound_log(log)
        for attempt in range(_TRIES):
            self._state.report_step(step, state="working")
            # The same command that a person would type: what it does here and by hand cannot differ.
            with log.open("ab") as output:
                code = subprocess.run(
                    (sys.executable, "-m", "infra.cli", *command),
                    check=False,
                    cwd=self._home.root,
                    env=dict(self._environment()),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                ).returncode
            if code == 0:
                self._state.report_step(step, state="done", note="")
                return True
            time.sleep(0.5 * 2**attempt)
        self._state.report_step(step, state="failed", note=log_tail(log, 1))
        return False
