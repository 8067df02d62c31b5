"""`relevo up`, `relevo down`, `relevo status`: the local stack."""

import sys
import time
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from infra.cli.output import AsJson, CommandError, Exit, print_json, say
from infra.stack.display import Display
from infra.stack.down import bring_down
from infra.stack.first import Sent, send_first
from infra.stack.following import NotUpError
from infra.stack.newcomer import what_next
from infra.stack.state import read_state
from infra.stack.status import ProcessStatus, look
from infra.stack.up import bring_up
from infra.stack.wanted import chosen_home

_STATE_STYLE = {"running": "green", "failed": "bold red", "restarting": "yellow", "stopped": "dim"}


def up(*, as_json: AsJson = False) -> None:
    """
    Start the local stack, or what is missing of it, and send one notification through it.

    What RELEVO_KAFKA_BOOTSTRAP, RELEVO_POSTGRES_DSN, RELEVO_REDIS_URL and RELEVO_SMTP_URL name is not started.
    Settings stay until `relevo down`, so a second call starts just what is missing.
    """
    began_s = time.monotonic()
    home = chosen_home()
    try:
        with Display(_progress(as_json=as_json)) as display:
            wanted, started = bring_up(home, display.show)
        contents = read_state(home)
        # Never to a relay that somebody named: nobody asked for a mail through it.
        first = send_first(contents["ingest_url"], wanted) if started and contents["mailbox_url"] else None
    except NotUpError as trouble:
        if lines := trouble.log_lines():
            say(f"The last lines of {trouble.log}:\n{lines}\n")
        remedy = "What did start goes on running: `make status` shows it, `make down` ends it."
        raise CommandError(Exit.FAILED, "not_up", str(trouble), remedy) from trouble
    except KeyboardInterrupt:
        goes_on = "The stack goes on starting: `make status` shows how far it is, `make down` ends it."
        raise CommandError(Exit.INTERRUPTED, "interrupted", "Interrupted.", goes_on) from None
    took_s = time.monotonic() - began_s
    if as_json:
        print_json({**contents, "took_s": round(took_s, 2), "started": started, "first_notification": _first(first)})
        return
    if first:
        print(f"\nThe first notification, to {first.receiver}: {first.status} after {first.took_s * 1000:.0f} ms.")
    print(f"\n{what_next(contents)}")
    print(f"{'Up' if started else 'Everything was running already; looked at'} after {took_s:.1f} s.")


def down(*, as_json: AsJson = False) -> None:
    """End what `relevo up` started, services first; the data stays."""
    began_s = time.monotonic()
    with Display(_progress(as_json=as_json)) as display:
        ended = bring_down(chosen_home(), display.show)
    took_s = time.monotonic() - began_s
    if as_json:
        print_json({"ended": ended, "took_s": round(took_s, 2)})
    elif ended:
        print(f"Down after {took_s:.1f} s. The data is kept in {chosen_home().root}; `make up` goes on with it.")
    else:
        print("Nothing was running.")


def status(*, as_json: AsJson = False) -> None:
    """Show what of the local stack runs, and whether each part answers. Exit code 1 when something does not."""
    found = look(chosen_home())
    if as_json:
        print_json(found.as_json())
    elif not found.processes:
        print("Nothing was started yet; `make up` starts it.")
    else:
        # Without a terminal there is no width to fit into, and a log that is cut in two cannot be opened.
        Console(width=None if sys.stdout.isatty() else 200).print(_table(found.processes))
        for process in found.processes:
            if remark := process.note or process.last_end:
                print(f"{process.name}: {remark}")
        for setting in found.given:
            print(f"{setting} is set: that part is not ours to start.")
        if all(process.state == "stopped" for process in found.processes):
            print("Nothing runs; `make up` starts it.")
        elif not found.keeper:
            print("Nobody watches: what ends now stays down. `make up` starts what is missing and watches again.")
    raise typer.Exit(Exit.OK if found.ok else Exit.FAILED)


def _table(processes: tuple[ProcessStatus, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("process", "state", "ready", "pid", "up", "restarts", "port", "log"):
        table.add_column(title, overflow="fold" if title == "log" else "ellipsis", no_wrap=title != "log")
    for process in processes:
        style = _STATE_STYLE.get(process.state, "")
        table.add_row(
            process.name,
            f"[{style}]{process.state}[/]" if style else process.state,
            "yes" if process.ready else "no",
            str(process.pid or ""),
            _duration(process.uptime_s),
            str(process.restarts),
            str(process.port or ""),
            _shortest(process.log),
        )
    return table


def _shortest(path: str | None) -> str:
    """Return the path as it is reached from here, if that is below here."""
    if path and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return path or ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _progress(*, as_json: bool) -> Console:
    """With --json the progress goes to the other stream: a program reads JSON, and a person still sees it."""
    return Console(stderr=as_json)


def _first(first: Sent | None) -> dict[str, object] | None:
    return {"id": first.notification_id, "status": first.status, "took_s": round(first.took_s, 3)} if first else None
