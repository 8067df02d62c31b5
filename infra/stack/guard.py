"""
Ends servers whose test run was killed.

Reads one process per line, as JSON, from its standard input. When that closes, whoever started them is gone or has
ended them itself, and what of them still runs is killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading

from infra.stack.home import with_checkout
from infra.stack.identity import Identity
from infra.stack.state import identity_fields


class Guard:
    """The guard as seen by the test run that it watches."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "infra.stack.guard"),
            stdin=subprocess.PIPE,
            text=True,
            env=with_checkout(os.environ),
            # A session of its own: an interrupt typed at the terminal must not end the guard before the run.
            start_new_session=True,
        )
        self._lock = threading.Lock()

    def watch(self, identity: Identity) -> None:
        """Have *identity* killed when this process is gone."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(identity_fields(identity)) + "\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """End the guard; what it watches and still runs is killed."""
        if self._process.poll() is None:
            self._process.communicate()


def main() -> None:
    """Wait for the end of the input, then kill what it named and still runs."""
    watched = [Identity(**json.loads(line)) for line in sys.stdin]
    for identity in watched:
        identity.send(signal.SIGKILL)


if __name__ == "__main__":
    main()
