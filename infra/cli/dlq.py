"""`relevo dlq`: what became a dead letter, and what is to become of it."""

import asyncio
import getpass
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from infra.cli.dead_letters import (
    BATCH_LETTERS_MAX,
    Handling,
    Letter,
    Wanted,
    can_be_put_back,
    handled_letters,
    read_letters,
    read_place,
    without_value,
)
from infra.cli.lines import document, printable
from infra.cli.output import AsJson, CommandError, Exit, print_json, print_line, say
from infra.cli.where import Place, find_place
from infra.postgres import open_pool
from infra.record_writer import RecordWriter
from schemas.moments import read_moment

_Done = Callable[[int, int], None]

dlq = typer.Typer(no_args_is_help=True, help="Dead letters.")


@dlq.callback()
def _group() -> None:
    """
    Dead letters: records that could not be read or taken, byte for byte, with the reason.

    Needs Kafka and PostgreSQL, like the services themselves.
    """


Places = Annotated[list[str] | None, typer.Argument(metavar="[P@OFFSET]...", help="As `list` shows them: p0@912.")]
OfReason = Annotated[str | None, typer.Option("--of", help="Only with this reason, such as invalid_json.")]
Since = Annotated[str | None, typer.Option("--from", help="Dead since then, with an offset.")]
Until = Annotated[str | None, typer.Option("--to", help="Dead before, with an offset.")]
OriginalPartition = Annotated[int | None, typer.Option(min=0, help="Where it stood before.")]
OriginalOffset = Annotated[int | None, typer.Option(min=0, help="Where it stood before.")]
Everything = Annotated[bool, typer.Option("--all", help="All that nobody has dealt with yet.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@dlq.command("list")
def list_(
    *,
    of: OfReason = None,
    since: Since = None,
    until: Until = None,
    original_partition: OriginalPartition = None,
    original_offset: OriginalOffset = None,
    handled: Annotated[bool, typer.Option("--handled", help="Also those that were replayed or discarded.")] = False,
    as_json: AsJson = False,
) -> None:
    """List dead letters that nobody has dealt with yet: where, when, why, and where they stood before."""
    wanted = _wanted(None, of, since, until, original_partition, original_offset, handled=handled)
    found = _find(find_place(), wanted)
    if as_json:
        print_json({"dead_letters": [letter.as_json() for letter in found]})
        return
    for letter in found:
        print_line(_line(letter))
    say(_summary(found))


@dlq.command("show")
def show(
    places: Places = None,
    *,
    value: Annotated[bool, typer.Option("--value", help="Also key, headers and value, which hold addresses.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show single dead letters, whoever has dealt with them."""
    if not places:
        raise typer.BadParameter("name at least one, such as p0@912", param_hint="P@OFFSET")
    wanted = _wanted(places, None, None, None, None, None, handled=True)
    found = _find(find_place(), wanted, lambda letter: letter)
    _require_all(found, wanted)
    told = [{**letter.as_json(), **({"record": document(letter.record)} if value else {})} for letter in found]
    if as_json:
        print_json({"dead_letters": told})
        return
    for letter, one in zip(found, told, strict=True):
        print_line(_line(letter))
        for name, of_it in one.items():
            if name not in {"partition", "offset"}:
                print_line(printable(f"  {name}: {of_it}"))


@dlq.command("replay")
def replay(
    places: Places = None,
    *,
    everything: Everything = False,
    of: OfReason = None,
    since: Since = None,
    until: Until = None,
    original_partition: OriginalPartition = None,
    original_offset: OriginalOffset = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """
    Put dead letters back on the topic they came from, byte for byte, when what was wrong is mended.

    What is in them still has its ids: nothing is sent twice. One that still cannot be read comes back as a new dead
    letter with one attempt more. Exit codes: 0 all are back; 1 some cannot be put back, or it was not confirmed.
    """
    wanted = _wanted(places, of, since, until, original_partition, original_offset)
    _handle(wanted, everything=everything, yes=yes, as_json=as_json, verb="Put back", reason=None)


@dlq.command("discard")
def discard(
    places: Places = None,
    *,
    reason: Annotated[str, typer.Option(help="Why; it stays with them.")],
    everything: Everything = False,
    of: OfReason = None,
    since: Since = None,
    until: Until = None,
    original_partition: OriginalPartition = None,
    original_offset: OriginalOffset = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give dead letters up: they are no longer offered, and stay on their topic as long as it keeps them."""
    if not reason.strip() or not reason.isprintable():
        raise typer.BadParameter("must be one line that is not blank", param_hint="--reason")
    wanted = _wanted(places, of, since, until, original_partition, original_offset)
    _handle(wanted, everything=everything, yes=yes, as_json=as_json, verb="Discard", reason=reason)


def _wanted(
    places: Sequence[str] | None,
    of: str | None,
    since: str | None,
    until: str | None,
    original_partition: int | None,
    original_offset: int | None,
    *,
    handled: bool = False,
) -> Wanted:
    try:
        named = frozenset(read_place(each) for each in places or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="P@OFFSET") from None
    begins, ends = _moment(since, "--from"), _moment(until, "--to")
    return Wanted(named, of, begins, ends, original_partition, original_offset, handled)


def _moment(text: str | None, option: str) -> datetime | None:
    try:
        return None if text is None else read_moment(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _find(place: Place, wanted: Wanted, keep: Callable[[Letter], Letter] = without_value) -> list[Letter]:
    handled = asyncio.run(handled_letters(place.settings.postgres_dsn))
    with _progress("reading") as done:
        letters = read_letters(place.settings.kafka_bootstrap, handled, done)
        return [keep(letter) for letter in letters if wanted.matches(letter)]


def _require_all(found: Sequence[Letter], wanted: Wanted) -> None:
    missing = wanted.places - {letter.place for letter in found}
    if missing:
        names = ", ".join(f"p{partition}@{offset}" for partition, offset in sorted(missing))
        dealt = "" if wanted.handled else ", or somebody has dealt with them already"
        raise CommandError(
            Exit.FAILED, "not_found", f"There are no such dead letters{dealt}: {names}.", "`relevo dlq list` shows all."
        )


def _handle(wanted: Wanted, *, everything: bool, yes: bool, as_json: bool, verb: str, reason: str | None) -> None:
    if everything == (not wanted.everything):
        raise typer.BadParameter("choose some, or say --all", param_hint="P@OFFSET")
    place = find_place()
    found = _find(place, wanted)
    _require_all(found, wanted)
    fit = found if reason is not None else [letter for letter in found if can_be_put_back(letter)]
    if fit and not yes and not _confirmed(verb, fit, as_json=as_json):
        raise typer.Exit(Exit.FAILED)
    with _progress(verb.lower()) as done:
        asyncio.run(_work(place, fit, reason, done))
    left = len(found) - len(fit)
    if as_json:
        print_json({"handled": [_coordinates(letter) for letter in fit], "left": left})
    else:
        print_line(f"{'Put back' if reason is None else 'Discarded'}: {len(fit)}.")
        if left:
            say(f"{left} do not say where they came from, and cannot be put back; `discard` takes them off the list.")
    if left:
        raise typer.Exit(Exit.FAILED)


def _confirmed(verb: str, letters: Sequence[Letter], *, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        raise CommandError(
            Exit.USAGE,
            "not_confirmed",
            f"{len(letters)} dead letters are meant, and nobody can be asked.",
            "Add --yes.",
        )
    return typer.confirm(f"{verb} {_summary(letters)}", err=True)


async def _work(place: Place, letters: Sequence[Letter], reason: str | None, done: _Done) -> None:
    writer = RecordWriter(place.settings.kafka_bootstrap, name="relevo-dlq")
    pool = await open_pool(place.settings.postgres_dsn, name="relevo-dlq", connections_max=1)
    try:
        handling = Handling(pool, writer, by=_user())
        handled = 0
        for some in _batches(place, letters) if reason is None else _slices(letters):
            step: Awaitable[None] = handling.put_back(some) if reason is None else handling.discard(some, reason)
            await step
            handled += len(some)
            done(handled, len(letters))
    finally:
        await writer.close()
        await pool.close()


def _slices(letters: Sequence[Letter]) -> Iterator[Sequence[Letter]]:
    return (letters[begin : begin + BATCH_LETTERS_MAX] for begin in range(0, len(letters), BATCH_LETTERS_MAX))


def _batches(place: Place, letters: Sequence[Letter]) -> Iterator[Sequence[Letter]]:
    """Read *letters* again, this time with their values, of which only one batch at a time is kept."""
    left = {letter.place: letter.written_at for letter in letters}
    batch: list[Letter] = []
    for letter in read_letters(place.settings.kafka_bootstrap, {}, lambda _read, _total: None):
        if left.get(letter.place) != letter.written_at:
            continue
        batch.append(letter)
        del left[letter.place]
        if len(batch) == BATCH_LETTERS_MAX or not left:
            yield batch
            batch = []
        if not left:
            return


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _line(letter: Letter) -> str:
    one: dict[str, Any] = letter.as_json()
    origin = letter.origin
    before = "an unknown place" if origin is None else f"{origin.topic} p{origin.partition}@{origin.offset}"
    handled = "" if letter.handled is None else f"  {letter.handled.action} by {letter.handled.by}"
    text = f"{_coordinates(letter):<10}  {one['at']}  {letter.reason:<20}  attempt {one['attempts'] or '-'}"
    return printable(f"{text}  {one['bytes']} bytes  from {before}: {one['message']}{handled}")


def _coordinates(letter: Letter) -> str:
    partition, offset = letter.place
    return f"p{partition}@{offset}"


def _summary(letters: Sequence[Letter]) -> str:
    reasons = Counter(letter.reason for letter in letters)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return printable(f"{len(letters)} dead letters{f' ({told})' if told else ''}.")


@contextmanager
def _progress(verb: str) -> Iterator[_Done]:
    columns = (TextColumn(verb), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda read, total: bar.update(task, completed=read, total=total)
