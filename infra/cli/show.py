"""`relevo show`: what became of one notification, step by step."""

from typing import Annotated, Any
from uuid import UUID

import typer

from infra.cli.door import Door
from infra.cli.lines import printable
from infra.cli.output import AsJson, print_json, print_line
from infra.cli.where import find_place


def show(
    notification_id: Annotated[UUID, typer.Argument(metavar="ID", help="Its id.")],
    *,
    key: Annotated[
        str | None, typer.Option(help="Key for the HTTP door. Default: the first of RELEVO_API_KEYS, if there is one.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of the HTTP door. Default: the one of this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what became of one notification: its status, and every step with its time."""
    place = find_place()
    document = Door(url or place.door_url, key or place.first_key).get(f"/api/notifications/{notification_id}")
    if as_json:
        print_json(document)
        return
    head, *steps = lines_of(document)
    print_line(head, document.get("status"))
    for step in steps:
        print_line(step)


def lines_of(document: dict[str, Any]) -> list[str]:
    """Return a status document for a person: the status first, then one line for each step."""
    about = [f"by {document.get('door')}", *(f"{name} {document[name]}" for name in _ABOUT if document.get(name))]
    head = f"{document.get('id')} is {document.get('status')}: {', '.join(about)}"
    return [printable(line) for line in (head, *(_line(step) for step in document.get("timeline") or ()))]


_ABOUT = ("producer", "replay_of", "scheduled_for", "expires_at", "next_attempt_at")


def _line(step: dict[str, Any]) -> str:
    if "offset" in step:
        index = f" [{step['index']}]" if step.get("index") else ""
        told = f"p{step.get('partition')}@{step['offset']}{index}"
    elif "attempt" in step:
        duration = "" if step.get("duration_ms") is None else f"{step['duration_ms']} ms"
        code = (step.get("reason") or {}).get("code")
        parts = (f"attempt {step['attempt']}", step.get("worker"), duration, code, step.get("smtp"))
        told = "  ".join(str(part) for part in parts if part)
    else:
        told = ""
    return f"  {step.get('at')}  {step.get('step'):<12}  {told}".rstrip()
