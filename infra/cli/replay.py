"""`relevo replay`: send again what did not arrive, through the HTTP door, and watch it being put on its way."""

import getpass
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli.door import Door
from infra.cli.output import AsJson, CommandError, Exit, print_json, print_line, say
from infra.cli.where import Place, find_place

PATH = "/api/replays"

_LOOK_S = 0.3
# The same order again under the same key is the same order: an answer that was lost is asked for again.
_ORDER_TRIES = 3
_PAUSE_S = 1.0


def replay(
    *,
    ids: Annotated[list[UUID] | None, typer.Argument(help="Of notifications; or choose by what follows.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="In this state; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Accepted then or later, with an offset.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Accepted before, with an offset.")] = None,
    producer: Annotated[str | None, typer.Option(help="Of this producer.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent, and why not.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was sent or may have been; needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why; it stays with the order.")] = None,
    rate: Annotated[int, typer.Option(min=1, max=1000, help="At most so many a second.")] = 100,
    follow: Annotated[UUID | None, typer.Option("--follow", help="Watch an order that was made before.")] = None,
    cancel: Annotated[UUID | None, typer.Option("--cancel", help="Call off an order that was made before.")] = None,
    key: Annotated[str | None, typer.Option(help="Key for the HTTP door. Default: as for `send`.")] = None,
    url: Annotated[str | None, typer.Option(help="Address of the HTTP door. Default: the one of this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """
    Send again what did not arrive. What was sent is passed over, unless --force says so.

    The order is carried out by relevo itself, also when this command ends. Ctrl-C asks whether to call it off; with
    --json, or where nobody can be asked, it goes on. Exit codes: 0 all of it is on its way; 1 refused, or called off;
    130 interrupted, and the order goes on.
    """
    place = find_place()
    door = Door(url or place.door_url, key or place.first_key)
    if cancel is not None or follow is not None:
        if (cancel is not None and follow is not None) or ids or status or since or until or producer:
            raise typer.BadParameter("stands alone", param_hint="--cancel" if cancel else "--follow")
        if cancel is not None:
            _show(door.delete(f"{PATH}/{cancel}"), as_json=as_json)
            return
        _end(_watch(door, door.get(f"{PATH}/{follow}"), None, as_json=as_json), as_json=as_json)
        return
    chosen = {"ids": [str(each) for each in ids or ()], "status": status, "from": since, "to": until}
    chosen |= {"producer": producer}
    order: dict[str, Any] = {name: value for name, value in chosen.items() if value} | {"force": force}
    order |= {"reason": reason} if reason is not None else {}
    count = door.post(PATH, {**order, "dry_run": True})[0]
    if dry_run:
        _show_count(count, as_json=as_json)
        return
    if not as_json:
        _show_count(count, as_json=False)
    made = _order(door, {**order, "rate_per_s": rate, "asked_by": _user()}, place)
    total = count["replayed"] + sum(count["skipped"].values()) if count["complete"] else None
    _end(_watch(door, made, total, as_json=as_json), as_json=as_json)


def _user() -> str:
    try:
        return getpass.getuser()[:128] or "unknown"
    except (OSError, KeyError):
        return "unknown"


def _order(door: Door, order: dict[str, Any], place: Place) -> dict[str, Any]:
    key = str(uuid4())
    for left in range(_ORDER_TRIES - 1, -1, -1):
        try:
            return door.post(PATH, order, idempotency_key=key)[0]
        except CommandError as error:
            if error.exit_code is not Exit.UNAVAILABLE:
                raise
            if not left:
                again = "The order may have been taken all the same; `--dry-run` shows what is under way."
                raise CommandError(
                    error.exit_code, error.code, error.detail, f"{place.remedy('RELEVO_HTTP_PORT')} {again}"
                ) from error
            time.sleep(_PAUSE_S)
    raise AssertionError("the last try returns or raises")


def _watch(door: Door, order: dict[str, Any], total: int | None, *, as_json: bool) -> dict[str, Any]:
    """Return the order when it has ended, or as it stood when the person at the terminal had seen enough."""
    try:
        with _progress(total) as show:
            while order["state"] == "running":
                show(order["replayed"] + sum(order["skipped"].values()))
                time.sleep(_LOOK_S)
                order = _look(door, order)
            show(order["replayed"] + sum(order["skipped"].values()))
    except KeyboardInterrupt:
        return _interrupted(door, order, as_json=as_json)
    return order


def _look(door: Door, order: dict[str, Any]) -> dict[str, Any]:
    try:
        return door.get(f"{PATH}/{order['id']}")
    except CommandError as error:
        if error.exit_code is Exit.UNAVAILABLE:
            return order  # it is stored: an outage now costs time only
        raise


def _interrupted(door: Door, order: dict[str, Any], *, as_json: bool) -> dict[str, Any]:
    if not as_json and sys.stdin.isatty() and typer.confirm(f"Call off the order {order['id']}?", err=True):
        return door.delete(f"{PATH}/{order['id']}")
    say(f"The order goes on. `relevo replay --follow {order['id']}` shows it, `--cancel` calls it off.")
    raise typer.Exit(Exit.INTERRUPTED)


def _end(order: dict[str, Any], *, as_json: bool) -> None:
    _show(order, as_json=as_json)
    if order["state"] != "done":
        raise typer.Exit(Exit.FAILED)


def _show(order: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(order)
        return
    print_line(f"order {order['id']} is {order['state']}: {order['replayed']} on their way{_skips(order)}.")


def _show_count(count: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(count)
        return
    more = "" if count["complete"] else " At least: there are more than could be counted."
    print_line(f"{count['replayed']} would be sent again{_skips(count)}.{more}")


def _skips(counts: dict[str, Any]) -> str:
    skipped = {reason: number for reason, number in counts["skipped"].items() if number}
    if not skipped:
        return ", none is passed over"
    told = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in skipped.items())
    return f", {sum(skipped.values())} are passed over ({told})"


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("sending again"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("sending again", total=total)
        yield lambda done: bar.update(task, completed=done)
