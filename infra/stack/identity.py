"""
Which process is meant. A pid alone may be somebody else's by now, so none is ever signalled by its pid alone.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

# Two readings of one start time differ by rounding only; where the system clock was set meanwhile, ticks decide.
_SAME_START_S = 0.05


@dataclass(frozen=True, slots=True)
class Identity:
    """
    One process, for good.

    create_time is in seconds since the epoch, for people and other tools. start_ticks counts from the boot of the
    machine, so setting the clock does not change it; None where the system has no /proc.
    """

    pid: int
    create_time: float
    start_ticks: int | None

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of the process that has *pid* now; None when there is none or it is a zombie."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return cls(pid, process.create_time(), _start_ticks(pid))
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Tell whether exactly this process still runs. A zombie does not: it only waits to be reaped."""
        now = Identity.of(self.pid)
        if now is None:
            return False
        if self.start_ticks is not None and now.start_ticks is not None:
            return self.start_ticks == now.start_ticks
        return abs(self.create_time - now.create_time) < _SAME_START_S

    def send(self, number: signal.Signals) -> bool:
        """
        Send a signal to this process and to no other.

        Returns:
            False when it is gone.
        Raises:
            PermissionError: it belongs to another user.
        """
        # The race that a bare kill() loses: we look, it ends, its pid goes to another process, we signal that one.
        # A descriptor opened before the look stays with the process that we looked at.
        descriptor = None
        if hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal"):
            with contextlib.suppress(OSError):  # an old kernel has none; then the race stays open, for microseconds
                descriptor = os.pidfd_open(self.pid)
        try:
            if not self.alive():
                return False
            if descriptor is None:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return True

    def end(self, number: signal.Signals, timeout_s: float) -> None:
        """
        End this process: the signal that it understands, a bounded wait, then SIGKILL. Returns when it is gone.

        Args:
            timeout_s: how long it may take to leave in its own way.
        """
        self.send(signal.SIGCONT)  # one that is paused could not obey
        self.send(number)
        if not self._gone_within(timeout_s):
            self.send(signal.SIGKILL)
            self._gone_within(10.0)

    def _gone_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        # The name in parentheses may hold anything, even a parenthesis; starttime is field 22, the name field 2.
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
