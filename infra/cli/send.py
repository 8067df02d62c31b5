"""`relevo send`: one notification, by either door, and what becomes of it."""

import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from infra.cli.door import Door
from infra.cli.lines import printable
from infra.cli.outcome import Coordinates, Step, open_results_of, watch_door, watch_results
from infra.cli.output import AsJson, CommandError, Exit, print_json, print_line
from infra.cli.producing import produce
from infra.cli.where import Place, find_place
from schemas.errors import InvalidRequestError
from schemas.identity import new_id
from schemas.messages import Notification
from schemas.states import State
from schemas.validation import read_content


class By(StrEnum):
    """The two doors."""

    HTTP = "http"
    KAFKA = "kafka"


def send(
    *,
    to: Annotated[str, typer.Option(help="One e-mail address.")],
    subject: Annotated[str, typer.Option(help="One line.")],
    body: Annotated[str, typer.Option(help="The text.")],
    html: Annotated[str | None, typer.Option(help="Shown instead of the text by readers that can.")] = None,
    notification_id: Annotated[
        UUID | None, typer.Option("--id", help="Its id; sending the same again is one mail. Default: a new one.")
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Copied into every result; may be repeated.")
    ] = None,
    by: Annotated[By, typer.Option(help="Through the HTTP door, or straight to Kafka.")] = By.HTTP,
    key: Annotated[
        str | None, typer.Option(help="Key for the HTTP door. Default: the first of RELEVO_API_KEYS, if there is one.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Address of the HTTP door. Default: the one of this machine.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show what becomes of it; fail unless it was sent.")] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds that --wait waits.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Send one notification. `sent` means that the relay took responsibility for it."""
    place = find_place()
    request = {"to": to, "subject": subject, "body": body}
    request |= {"html": html} if html is not None else {}
    wanted: dict[str, Any] = {**request, **({"metadata": _metadata(metadata)} if metadata else {})}
    began_s = time.monotonic()
    identity = notification_id or new_id()
    if by is By.HTTP:
        door = Door(url or place.door_url, key or place.first_key)
        accepted = _through_http(door, identity, wanted, place)
        steps = watch_door(door, identity, within_s=timeout_s) if wait else None
    else:
        accepted, steps = _through_kafka(
            place, identity, wanted, wait_s=timeout_s if wait else None, seen_before=notification_id is not None
        )
    if not as_json:
        print(f"{identity} is {accepted['status']}{', as it was before' if accepted.get('replayed') else ''}.")
    last = None if steps is None else _show(steps, as_json=as_json)
    if as_json:
        print_json(accepted if last is None else {**accepted, **_ending(last), "took_s": _since(began_s)})
    elif last is not None:
        print(f"{last.status} after {_since(began_s)} s")
    if last is not None and last.status != State.SENT:
        raise typer.Exit(Exit.FAILED)


def _metadata(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter("must be NAME=VALUE", param_hint="--metadata")
        found[name] = value
    return found


def _through_http(door: Door, identity: UUID, request: dict[str, Any], place: Place) -> dict[str, Any]:
    try:
        answer, headers = door.post("/api/notify/", {"id": str(identity), **request})
    except CommandError as error:
        if error.code == "unavailable":
            again = f"It may have been accepted all the same; sending it again with --id {identity} is safe."
            raise CommandError(
                error.exit_code, error.code, error.detail, f"{place.remedy('RELEVO_HTTP_PORT')} {again}"
            ) from error
        raise
    return {
        "id": answer["id"],
        "door": "http",
        "status": answer["status"],
        "trace_id": answer["trace_id"],
        "replayed": headers.get("idempotency-replayed") == "true",
    }


def _through_kafka(
    place: Place, identity: UUID, request: dict[str, Any], *, wait_s: float | None, seen_before: bool
) -> tuple[dict[str, Any], Iterator[Step] | None]:
    try:
        notification = Notification(identity, read_content(request, accepts=None))
    except InvalidRequestError as invalid:
        said = "; ".join(f"{each.pointer or '/'} {each.detail}" for each in invalid.errors)
        raise CommandError(Exit.FAILED, invalid.code, f"Invalid request: {said}") from None
    bootstrap = place.settings.kafka_bootstrap
    # Opened before it is sent: what happens in between is not missed. An id that may have been sent before gets no
    # new results, so its old ones are read.
    reader = None if wait_s is None else open_results_of(bootstrap, identity, from_start=seen_before)
    partition, offset = produce(bootstrap, notification)
    accepted = {
        "id": str(identity),
        "door": "kafka",
        "status": State.QUEUED.value,
        "partition": partition,
        "offset": offset,
    }
    if reader is None or wait_s is None:
        return accepted, None
    return accepted, watch_results(reader, identity, Coordinates(partition, offset), within_s=wait_s)


def _show(steps: Iterator[Step], *, as_json: bool) -> Step:
    last = None
    if as_json or not sys.stdout.isatty():
        for last in steps:
            if not as_json:
                print_line(_line(last))
    else:
        console = Console(highlight=False)
        with console.status("waiting for the outcome"):
            for last in steps:
                console.print(_line(last), markup=False, soft_wrap=True)
    assert last is not None, "watching ends with a last step or with an error"
    return last


def _line(step: Step) -> str:
    attempt = "" if step.attempt is None else f"attempt {step.attempt}"
    return printable(f"  {step.at}  {step.status:<9}  {attempt:<10}  {step.reason or ''}  {step.smtp or ''}".rstrip())


def _ending(last: Step) -> dict[str, Any]:
    return {
        "status": last.status,
        "terminal": True,
        "attempt": last.attempt,
        "reason": None if last.reason is None else {"code": last.reason, "smtp": last.smtp},
    }


def _since(began_s: float) -> float:
    return round(time.monotonic() - began_s, 2)
