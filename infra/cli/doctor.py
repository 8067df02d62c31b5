"""`relevo doctor`: looks at everything at once, and says what is wrong and what to do about it."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import typer
from rich.console import Console
from rich.text import Text

from infra.cli.checks.finding import Finding, Grade, Report, problem
from infra.cli.checks.kafka import check_kafka
from infra.cli.checks.postgres import check_postgres
from infra.cli.checks.redis import check_redis
from infra.cli.checks.relay import check_relay
from infra.cli.checks.services import check_services
from infra.cli.checks.settings import check_settings
from infra.cli.output import AsJson, Exit, print_json
from infra.cli.where import Place, find_place
from schemas.errors import ConfigurationError

# For all checks together, whatever hangs.
CHECKS_S_MAX = 6.0

Check = Callable[[Place, Report], None]

# In the order of the report: what others need comes first.
CHECKS: tuple[tuple[str, Check], ...] = (
    ("settings", check_settings),
    ("postgres", check_postgres),
    ("redis", check_redis),
    ("kafka", check_kafka),
    ("relay", check_relay),
    ("services", check_services),
)

_MARKS = {
    Grade.OK: ("✓", "green"),
    Grade.PROBLEM: ("✗", "bold red"),
    Grade.WARNING: ("!", "yellow"),
    Grade.INFO: ("·", "dim"),
}


def doctor(*, as_json: AsJson = False) -> None:
    """
    Look at settings, PostgreSQL, Redis, Kafka, the relay and the services, and say what to do about what is wrong.

    Sends no mail and changes nothing. Takes a few seconds at most, whatever hangs. Exit code 1 when there is a problem;
    a warning alone is 0.
    """
    began_s = time.monotonic()
    found = []
    console = Console(highlight=False)
    waiting = console.status("looking") if console.is_terminal and not as_json else nullcontext()
    with waiting:
        for finding in examine():
            found.append(finding)
            if not as_json:
                _show(console, finding)
    problems, warnings = (sum(each.grade is grade for each in found) for grade in (Grade.PROBLEM, Grade.WARNING))
    if as_json:
        print_json(
            {
                "ok": not problems,
                "took_s": round(time.monotonic() - began_s, 2),
                "checks": [
                    {"check": each.check, "grade": each.grade, "detail": each.detail, "remedy": each.remedy}
                    for each in found
                ],
            }
        )
    else:
        also = f", {warnings} warning{'' if warnings == 1 else 's'}" if warnings else ""
        print(f"{problems or 'No'} problem{'' if problems == 1 else 's'}{also}.")
    if problems:
        raise typer.Exit(Exit.FAILED)


def examine(checks: Sequence[tuple[str, Check]] = CHECKS, *, within_s: float = CHECKS_S_MAX) -> Iterator[Finding]:
    """Yield what all checks find, in their order. They run side by side; one that hangs is given up at the end."""
    try:
        place = find_place()
    except ConfigurationError as refusal:
        for line in str(refusal).splitlines():
            yield problem("settings", line, "Correct it; nothing else can be looked at before.")
        return
    deadline = time.monotonic() + within_s
    running = [(name, _start(check, place)) for name, check in checks]
    for name, findings in running:
        yield from _collect(name, findings, deadline, within_s)


def _start(check: Check, place: Place) -> "queue.SimpleQueue[Finding | None]":
    """Run *check* in a thread of its own; None ends what it finds."""
    findings: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            check(place, findings.put)
        except Exception as error:  # noqa: BLE001 -- one check that breaks must not take the others along
            detail = f"the check itself broke: {type(error).__name__}: {error}"
            findings.put(problem(check.__name__, detail, "This is our mistake; please report it."))
        findings.put(None)

    # A daemon: one that hangs, in a name look-up for instance, must not hold the process.
    threading.Thread(target=run, daemon=True).start()
    return findings


def _collect(
    name: str, findings: "queue.SimpleQueue[Finding | None]", deadline: float, within_s: float
) -> Iterator[Finding]:
    while True:
        try:
            finding = findings.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield problem(name, f"no answer within {within_s} s; something hangs", "See the findings above and below.")
            return
        if finding is None:
            return
        yield finding


def _show(console: Console, finding: Finding) -> None:
    mark, style = _MARKS[finding.grade]
    if not sys.stdout.isatty():
        print(f"{finding.grade:<8} {finding.check}: {finding.detail}", flush=True)
    else:
        console.print(Text.assemble((mark, style), f" {finding.check}: {finding.detail}"), soft_wrap=True)
    if finding.remedy:
        print(f"{'':<8} {finding.remedy}" if not sys.stdout.isatty() else f"  {finding.remedy}", flush=True)
