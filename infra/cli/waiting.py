"""Waiting for a server that is still starting: `topics apply` and `db upgrade` may be run before it answers."""

import time
from collections.abc import Callable
from typing import TypeVar

from infra.cli.output import CommandError, Exit, say
from schemas.errors import TransientError

SERVER_S_MAX = 30.0
_PAUSE_S = 0.5

Done = TypeVar("Done")


def wait_for_server(server: str, remedy: str, act: Callable[[float], Done], *, within_s: float = SERVER_S_MAX) -> Done:
    """
    Call *act* with the seconds that are left until it no longer raises TransientError, and return what it returned.

    Args:
        server: its name and where it is, for people.
        remedy: what to do when it does not come.
    Raises:
        CommandError: unavailable; the time is over.
    """
    deadline = time.monotonic() + within_s
    told = False
    while True:
        try:
            return act(max(1.0, deadline - time.monotonic()))
        except TransientError as error:
            if time.monotonic() + _PAUSE_S > deadline:
                detail = f"{server} did not answer within {within_s:.0f} s: {error}."
                raise CommandError(Exit.UNAVAILABLE, "unavailable", detail, remedy) from None
            if not told:
                told = True
                say(f"Waiting up to {within_s:.0f} s for {server}.")
            time.sleep(_PAUSE_S)
