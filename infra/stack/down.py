"""End a stack: what was started, and only that. Its data stays."""

import signal
import time
from collections.abc import Callable
from typing import Any

from infra.stack.ending import end_all
from infra.stack.home import Home
from infra.stack.state import identity_of, read_state
from infra.stack.up import keeper_runs

_LOOK_S = 0.1
# Services and then servers may take 30 s each to leave in their own way, and a little more when they must be killed.
_KEEPER_S_MAX = 90.0


def bring_down(home: Home, show: Callable[[dict[str, Any]], None]) -> tuple[str, ...]:
    """
    End services, servers and keeper of *home*, in this order, and wait until they are gone.

    Args:
        show: called with the contents of stack.json while it goes on.
    Returns:
        The names of what ran; empty when nothing did.
    """
    contents = read_state(home)
    ran = tuple(
        name
        for name, entry in contents.get("processes", {}).items()
        if (identity := identity_of(entry)) is not None and identity.alive()
    )
    keeper = identity_of(contents.get("keeper") or {})
    if keeper is not None and keeper_runs(home):
        keeper.send(signal.SIGTERM)
        deadline = time.monotonic() + _KEEPER_S_MAX
        while keeper.alive() and time.monotonic() < deadline:
            show({"processes": read_state(home).get("processes", {})})
            time.sleep(_LOOK_S)
        keeper.send(signal.SIGKILL)
    if home.stack_file.exists():
        # With no keeper, or one that was killed at its work, what it recorded is ended here.
        end_all(home)
    if ran:
        show({"processes": read_state(home).get("processes", {})})
    return ran
