"""What a check finds."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """What a finding means for the whole."""

    OK = "ok"
    PROBLEM = "problem"
    WARNING = "warning"  # works, and should be mended before the day that it matters
    INFO = "info"  # neither good nor bad by itself


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that was looked at.

    check: what was looked at, stable, for programs. detail: one clause for people. remedy: what to do; empty unless
    it is a problem or a warning. Neither holds a password.
    """

    check: str
    grade: Grade
    detail: str
    remedy: str = ""


Report = Callable[[Finding], None]
"""Takes findings as they come: whatever hangs later hides nothing that was found before."""

# For one answer of one server. The doctor as a whole has its own, later end.
ANSWER_S_MAX = 2.5


def ok(check: str, detail: str) -> Finding:
    """Return that *check* is in order."""
    return Finding(check, Grade.OK, detail)


def info(check: str, detail: str) -> Finding:
    """Return something worth knowing about *check*."""
    return Finding(check, Grade.INFO, detail)


def problem(check: str, detail: str, remedy: str) -> Finding:
    """Return what is wrong with *check*, and what to do."""
    return Finding(check, Grade.PROBLEM, detail, remedy)


def warning(check: str, detail: str, remedy: str) -> Finding:
    """Return what will be wrong with *check* on a bad day, and what to do before."""
    return Finding(check, Grade.WARNING, detail, remedy)
