"""The processes of the local stack: each alive and ready, and if not, why, and where its log is."""

from collections.abc import Iterator

import psutil

from infra.cli.checks.finding import Finding, info, ok, problem
from infra.cli.checks.services import ask_ready, sentence
from infra.cli.where import Place
from infra.stack.ports import holder, is_free
from infra.stack.status import ProcessStatus, StackStatus, look


def look_at_processes(place: Place, *, used: bool) -> Iterator[Finding]:
    """
    Look at each process that stack.json names.

    Args:
        used: whether what we look at is this stack; otherwise that it is down is no problem.
    """
    found = look(place.home)
    if not any(process.pid for process in found.processes):
        detail = f"nothing of the local stack in {place.home.root} runs"
        yield problem("stack", detail, "`make up` starts it.") if used else info("stack", detail)
        return
    yield judge_keeper(found)
    for process in found.processes:
        if process.ready:
            yield ok(f"process {process.name}", f"pid {process.pid}, ready{_ports(process)}")
        elif process.pid is None:
            yield _judge_missing(process)
        else:
            yield _judge_unready(process, place)


def judge_keeper(found: StackStatus) -> Finding:
    """Say whether somebody watches the processes."""
    if found.keeper:
        return ok("stack", "the keeper watches its processes")
    detail = "nobody watches the local stack: what ends stays down"
    return problem("stack", detail, "`make up` watches it again.")


def _judge_missing(process: ProcessStatus) -> Finding:
    detail = f"{process.state}: {process.note or process.last_end or 'it does not run'} (log: {process.log})"
    if process.port and not is_free(process.port):
        other = holder(process.port) or "another process"
        return problem(
            f"process {process.name}", f"{detail}; its port {process.port} is taken by {other}", "End that one."
        )
    return problem(f"process {process.name}", detail, "`make up` starts it; if it ends again, its log says why.")


def _judge_unready(process: ProcessStatus, place: Place) -> Finding:
    check, name = f"process {process.name}", f"pid {process.pid} is not ready"
    if is_held(process.pid):
        return problem(check, f"pid {process.pid} is held by a signal", f"Let it go on: kill -CONT {process.pid}")
    url = place.door_url if process.name == "ingest" else f"http://127.0.0.1:{process.ops_port}"
    status, reasons = ask_ready(url) if process.ops_port or process.name == "ingest" else (0, {})
    why = sentence(reasons) if status else process.note or "it does not answer"
    return problem(check, f"{name}: {why} (log: {process.log})", "Mend what it names; its log says more.")


def is_held(pid: int | None) -> bool:
    """Tell whether somebody stopped the process with a signal (SIGSTOP, Ctrl-Z): it lives and does nothing."""
    try:
        return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:
        return False


def _ports(process: ProcessStatus) -> str:
    ports = dict.fromkeys(port for port in (process.port, process.ops_port) if port)
    return f", port {' and '.join(str(port) for port in ports)}" if ports else ""
