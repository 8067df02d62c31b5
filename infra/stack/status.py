"""What of a stack runs now: what stack.json says, held against the processes themselves."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from infra.stack.home import Home
from infra.stack.plan import Plan
from infra.stack.state import Entry, identity_of, read_state
from infra.stack.up import keeper_runs
from infra.stack.wanted import GIVEN_PARTS, Wanted
from schemas.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """
    One process as it is now.

    state: waiting, preparing, starting, running, restarting, stopping, stopped or failed. ready: it answered just
    now. restarts: how often it was started again because it had ended. last_end: how and when that was.
    """

    name: str
    state: str
    ready: bool
    pid: int | None
    uptime_s: float | None
    restarts: int
    port: int | None
    ops_port: int | None
    log: str | None
    note: str
    last_end: str | None


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The whole stack. keeper: somebody watches it. given: settings that take the place of a part."""

    keeper: bool
    processes: tuple[ProcessStatus, ...]
    given: tuple[str, ...]
    addresses: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether everything is there, does its work, and is watched."""
        return self.keeper and bool(self.processes) and all(process.ready for process in self.processes)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "ok": self.ok,
            "keeper": self.keeper,
            "given": list(self.given),
            **self.addresses,
            "processes": {process.name: asdict(process) for process in self.processes},
        }


def look(home: Home) -> StackStatus:
    """Look at the stack of *home*; takes as long as the slowest answer, 2 s at most."""
    contents, wanted, keeper = read_state(home), Wanted.load(home), keeper_runs(home)
    entries: dict[str, Entry] = contents.get("processes", {})
    plan = Plan(home, wanted, contents.get("ports", {})) if wanted else None
    with ThreadPoolExecutor(max(1, len(entries))) as pool:
        processes = tuple(pool.map(lambda name: _look_at(name, entries[name], plan, keeper=keeper), entries))
    return StackStatus(
        keeper=keeper,
        processes=processes,
        given=tuple(setting for setting in GIVEN_PARTS if wanted and setting in wanted.settings),
        addresses={name: contents.get(name) for name in ("ingest_url", "mailbox_url", "kafka_bootstrap")},
    )


def _look_at(name: str, entry: Entry, plan: Plan | None, *, keeper: bool) -> ProcessStatus:
    identity = identity_of(entry)
    alive = identity is not None and identity.alive()
    state = str(entry.get("state"))
    if not alive and state in {"running", "starting", "stopping"}:
        state = "restarting" if keeper else "stopped"  # it ended a moment ago, or while nobody watched
    elif not keeper and not alive and state != "failed":
        state = "stopped"
    return ProcessStatus(
        name=name,
        state=state,
        ready=alive and plan is not None and _answers(plan, name),
        pid=identity.pid if alive and identity else None,
        uptime_s=round(datetime.now(UTC).timestamp() - identity.create_time, 1) if alive and identity else None,
        restarts=int(entry.get("restarts") or 0),
        port=entry.get("port"),
        ops_port=entry.get("ops_port"),
        log=entry.get("log"),
        note=str(entry.get("note") or ""),
        last_end=entry.get("last_end"),
    )


def _answers(plan: Plan, name: str) -> bool:
    try:
        return plan.recipe(name).ready()
    except (KeyError, ConfigurationError):  # its port is not chosen yet, or it can't be started here
        return False
