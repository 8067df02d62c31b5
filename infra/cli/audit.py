"""
`relevo audit`: conservation. What was accepted in a closed window is either finished or in flight; the gap is 0.

Two sources that know nothing of each other are held against one another: the ledger, and the results topic, on
which the pipeline tells of every id before any sender has seen it. What can be done about a gap stands in
infra.cli.audit_put_back.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from infra.cli.audit_put_back import known_of, put_back
from infra.cli.output import AsJson, Exit, print_json, print_line
from infra.cli.reading import TopicReader
from infra.cli.where import find_place
from infra.postgres import fetch, open_pool
from infra.settings import Settings
from schemas.messages import Source
from schemas.states import TERMINAL, State
from schemas.topics import DEDUPLICATED, REQUESTED, RESULTS

# Nothing that was accepted less than this ago is judged: it may be between two places.
SETTLING_S = 60
IDS_SHOWN_MAX = 20

# How long nothing may come from a topic that is read to its end.
_END_S = 2.0


@dataclass(slots=True)
class Told:
    """
    What the results topic says of one id: the highest change, and every terminal state.

    source: where its request stood on notifications.requested.
    """

    accepted_at: str
    seq: int
    status: str
    terminal: list[str] = field(default_factory=list)
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """
    The account of a window.

    gap: accepted, and neither finished nor in flight. untold: finished, and the topic does not say so.
    disagreeing: the two say different things, or the topic tells two ends.
    """

    accepted: int
    finished: dict[str, int]
    in_flight: dict[str, int]
    gap: tuple[str, ...]
    untold: tuple[str, ...]
    disagreeing: tuple[str, ...]

    @property
    def balanced(self) -> bool:
        """Whether the account comes out even."""
        return not (self.gap or self.untold or self.disagreeing)


def balance(states: dict[str, str], known: set[str], told: dict[str, Told], since: str, until: str) -> Account:
    """
    Hold the ledger against the topic. Pure.

    Args:
        states: of each id that the ledger has from the window. known: every id that the ledger has at all, of those
            that the topic tells of. since, until: the window, as the timestamps of results are written.
    """
    gap = [each for each, one in told.items() if since <= one.accepted_at < until and each not in known]
    untold, disagreeing = [], []
    for each, state in states.items():
        ends = told[each].terminal if each in told else []
        if State(state) in TERMINAL:
            if not ends:
                untold.append(each)
            elif ends != [state]:
                disagreeing.append(each)
        elif ends:
            disagreeing.append(each)
    counts = Counter(states.values())
    return Account(
        accepted=len(states) + len(gap),
        finished={state: count for state, count in sorted(counts.items()) if State(state) in TERMINAL},
        in_flight={state: count for state, count in sorted(counts.items()) if State(state) not in TERMINAL},
        gap=tuple(gap),
        untold=tuple(untold),
        disagreeing=tuple(disagreeing),
    )


def audit(
    *,
    hours: Annotated[float, typer.Option(min=0.02, help="How far back the window reaches.")] = 24.0,
    putting_back: Annotated[
        bool, typer.Option("--put-back", help="Forward once more what the pipeline forwarded and no sender ever got.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Count what was accepted, what is finished and what is in flight; exit 1 when the account does not come out even.

    The window ends a minute ago. Reads the whole results topic. --put-back is safe to repeat; not after the ledger
    itself was restored from a backup: it would not know which mails are out.
    """
    place = find_place()
    until = datetime.now(UTC) - timedelta(seconds=SETTLING_S)
    since = until - timedelta(hours=hours)
    told = _read_results(place.settings.kafka_bootstrap)
    states, known = asyncio.run(_read_ledger(place.settings.postgres_dsn, since, until, list(told)))
    account = balance(states, known, told, since.isoformat(), until.isoformat())
    document = {
        "from": since.isoformat(timespec="seconds"),
        "to": until.isoformat(timespec="seconds"),
        "accepted": account.accepted,
        "finished": account.finished,
        "in_flight": account.in_flight,
        "gap": len(account.gap),
        "untold": len(account.untold),
        "disagreeing": len(account.disagreeing),
        "ids": {
            "gap": account.gap[:IDS_SHOWN_MAX],
            "untold": account.untold[:IDS_SHOWN_MAX],
            "disagreeing": account.disagreeing[:IDS_SHOWN_MAX],
        },
        "balanced": account.balanced,
    }
    if putting_back:
        document |= _put_back(place.settings, account, told)
    if as_json:
        print_json(document)
    else:
        _print(document)
    if not document["balanced"]:
        raise typer.Exit(Exit.FAILED)


def _put_back(settings: Settings, account: Account, told: dict[str, Told]) -> dict[str, Any]:
    """Put back what can be, and return what changes in the document."""
    # Told of more than `queued`: a sender had it, and its mail may be out.
    begun = tuple(each for each in account.gap if told[each].seq > 1)
    lost = {each: source for each in account.gap if told[each].seq == 1 and (source := told[each].source) is not None}
    done = asyncio.run(put_back(settings.kafka_bootstrap, settings.postgres_dsn, lost))
    ids = {"written": done.written, "gone": done.gone, "begun": begun}
    return {
        "put_back": {name: len(of_it) for name, of_it in ids.items()}
        | {"known": len(done.known), "ids": {name: of_it[:IDS_SHOWN_MAX] for name, of_it in ids.items()}},
        "balanced": done.known >= set(account.gap) and not (account.untold or account.disagreeing),
    }


def _print(document: dict[str, Any]) -> None:
    print_line(f"accepted from {document['from']} to {document['to']}: {document['accepted']}")
    for state, count in document["finished"].items():
        print_line(f"  {state:<10} {count}", state)
    for state, count in document["in_flight"].items():
        print_line(f"  {state:<10} {count}  (in flight)", state)
    meanings = {
        "gap": "accepted, and neither finished nor in flight",
        "untold": f"finished, and {RESULTS.name} does not say so",
        "disagreeing": "the ledger and the topic say different things",
    }
    for name, meaning in meanings.items():
        if document[name]:
            print_line(f"  {name}: {document[name]}, {meaning}: {', '.join(document['ids'][name])}", "failed")
    if "put_back" in document:
        _print_put_back(document["put_back"])
    print_line("The account comes out even." if document["balanced"] else "The account does not come out even.")


def _print_put_back(done: dict[str, Any]) -> None:
    print_line(f"  put back on {DEDUPLICATED.name}: {done['written']}; of the gap the ledger knows {done['known']} now")
    meanings = {
        "gone": f"their requests are not on {REQUESTED.name} any more",
        "begun": "a sender had begun with them, so it is the ledger that lost them, and their mails may be out",
    }
    for name, meaning in meanings.items():
        if done[name]:
            print_line(f"  not put back: {done[name]}, {meaning}: {', '.join(done['ids'][name])}", "failed")


def _read_results(bootstrap: str) -> dict[str, Told]:
    told: dict[str, Told] = {}
    with TopicReader(bootstrap, RESULTS, from_start=True) as reader:
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _END_S:
            for record in reader.read():
                quiet_since = time.monotonic()
                _fold(told, record.parsed())
    return told


def _fold(told: dict[str, Told], result: Any) -> None:
    # seq 0: a rejected record, which is no notification.
    if not isinstance(result, dict) or not result.get("id") or not result.get("seq"):
        return
    one = told.setdefault(result["id"], Told(result["accepted_at"], 0, "", source=_source_of(result)))
    if result["seq"] > one.seq:
        one.seq, one.status = result["seq"], result["status"]
    # A copy of the same event tells the same end again.
    if result["terminal"] and result["status"] not in one.terminal:
        one.terminal.append(result["status"])


def _source_of(result: dict[str, Any]) -> Source | None:
    source = result.get("source")
    return Source(*(source[name] for name in ("door", "partition", "offset", "index"))) if source else None


async def _read_ledger(dsn: str, since: datetime, until: datetime, ids: list[str]) -> tuple[dict[str, str], set[str]]:
    pool = await open_pool(dsn, name="relevo-audit", connections_max=1)
    try:
        rows = await fetch(
            pool, "SELECT id::text, state FROM notifications WHERE accepted_at >= $1 AND accepted_at < $2", since, until
        )
        known = await known_of(pool, ids)
    finally:
        await pool.close()
    return {row["id"]: row["state"] for row in rows}, known
