"""`relevo webhooks`: the webhook of the client whose key it has, through the HTTP door."""

from typing import Annotated, Any
from uuid import UUID

import typer

from infra.cli.door import Door
from infra.cli.lines import printable
from infra.cli.output import AsJson, print_json, print_line
from infra.cli.where import find_place

PATH = "/api/webhook"

Key = Annotated[str | None, typer.Option(help="Key for the HTTP door. Default: as for `send`.")]
Url = Annotated[str | None, typer.Option("--door", help="Address of the HTTP door. Default: the one of this machine.")]

webhooks = typer.Typer(no_args_is_help=True, help="Your webhook: results as signed HTTP requests.")


@webhooks.callback()
def _group() -> None:
    """Your webhook."""


@webhooks.command("set")
def set_webhook(
    *,
    url: Annotated[str, typer.Argument(help="Where it goes: https://host/path.")],
    status: Annotated[
        list[str] | None, typer.Option(help="Tell of this one; may be repeated. Default: what is final, and rejected.")
    ] = None,
    key: Key = None,
    door: Url = None,
    as_json: AsJson = False,
) -> None:
    """Make it, or change it and enable it again. The secret of a new one is shown this once."""
    wanted: dict[str, Any] = {"url": url, **({"statuses": status} if status else {})}
    _show(_door(door, key).put(PATH, wanted), as_json=as_json)


@webhooks.command("show")
def show(*, key: Key = None, door: Url = None, as_json: AsJson = False) -> None:
    """Show it, without its secret."""
    _show(_door(door, key).get(PATH), as_json=as_json)


@webhooks.command("rotate")
def rotate(*, key: Key = None, door: Url = None, as_json: AsJson = False) -> None:
    """Get a new secret, shown this once. For 24 hours the one before signs, too."""
    _show(_door(door, key).post(f"{PATH}/rotate", {})[0], as_json=as_json)


@webhooks.command("remove")
def remove(*, key: Key = None, door: Url = None, as_json: AsJson = False) -> None:
    """Remove it. What it has not been told of is given up."""
    _door(door, key).delete(PATH)
    _answer({"removed": True}, "There is none now.", as_json=as_json)


@webhooks.command("test")
def try_out(*, key: Key = None, door: Url = None, as_json: AsJson = False) -> None:
    """Have an event delivered that means nothing."""
    answer = _door(door, key).post(f"{PATH}/test", {})[0]
    _answer(answer, f"On its way as webhook-id {answer['webhook_id']}; `deliveries` tells.", as_json=as_json)


@webhooks.command("resend")
def resend(
    *,
    ids: Annotated[list[UUID] | None, typer.Argument(help="Of notifications; or choose by --from and --to.")] = None,
    since: Annotated[str | None, typer.Option("--from", help="Occurred then or later, with an offset.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Occurred before, with an offset.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Nothing that was delivered.")] = False,
    key: Key = None,
    door: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have events delivered again, with the same webhook-id."""
    chosen: dict[str, Any] = {"ids": [str(each) for each in ids or ()], "from": since, "to": until}
    wanted = {name: value for name, value in chosen.items() if value} | {"failed_only": failed}
    opened, deliveries = _door(door, key), 0
    while wanted:
        answer = opened.post(f"{PATH}/resend", wanted)[0]
        deliveries += answer["deliveries"]
        wanted = answer["next"]
    _answer({"deliveries": deliveries}, f"{deliveries} will be delivered again.", as_json=as_json)


@webhooks.command("deliveries")
def show_deliveries(
    *,
    state: Annotated[str | None, typer.Option(help="Only these: pending, delivered or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 20,
    key: Key = None,
    door: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show what was delivered, and what was not, newest first."""
    page = _door(door, key).get(f"{PATH}/deliveries?limit={limit}{f'&state={state}' if state else ''}")
    if as_json:
        print_json(page)
        return
    for each in page["items"]:
        print_line(
            printable(
                f"{each['occurred_at']}  {each['webhook_id']}  {each['type']:<24}  {each['state']:<9}  "
                f"attempt {each['attempt']}  {each['answer'] or ''}".rstrip()
            )
        )


def _door(url: str | None, key: str | None) -> Door:
    place = find_place()
    return Door(url or place.door_url, key or place.first_key)


def _show(webhook: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(webhook)
        return
    for name, value in webhook.items():
        if value is not None:
            print_line(printable(f"{name}: {', '.join(value) if isinstance(value, list) else value}"))


def _answer(document: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_line(sentence)
