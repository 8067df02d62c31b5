"""
The checker: from what was gathered after a run to what was kept of the promises. Pure.

It believes nobody: what was accepted (202, or the broker's acknowledgement), what the sink has, what the ledger says
and what the results topic says are held against each other, id by id.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Written out, not imported: a mistake in the code's own table must not be the checker's mistake, too.
TERMINAL = frozenset({"sent", "failed", "bounced", "suppressed", "expired", "cancelled", "in_doubt"})
# A mail that the sink has, and an id in one of these: somebody was told that nothing was sent, and something was.
WITHOUT_MAIL = TERMINAL - {"sent", "in_doubt"}


class Offer(NamedTuple):
    """What a client offered under one id. may_bounce: its recipient refuses for good. resend: on_doubt is resend."""

    may_bounce: bool = False
    resend: bool = False


class Told(NamedTuple):
    """One event of the results topic, copies folded away by event_id."""

    id: str
    seq: int
    status: str
    terminal: bool


@dataclass(frozen=True)
class Facts:
    """
    Everything that was gathered; ids are texts.

    offered: all that was ever offered, by whichever door. acknowledged: of it, what was answered with 202 or
    acknowledged by the broker. mails: the Message-IDs of each id's mails in the sink. ledger: the state of each row.
    shown: what GET said, for some. forwarded: records on the topic behind the deduplication. poison, dead_letters:
    values that nobody can read and the broker acknowledged, and the values on the dead-letter topic.
    anomalies: sentences about answers that no client should ever get.
    """

    offered: Mapping[str, Offer]
    acknowledged: frozenset[str]
    mails: Mapping[str, Sequence[str]]
    ledger: Mapping[str, str]
    results: Iterable[Told]
    shown: Mapping[str, str] = field(default_factory=dict)
    forwarded: Mapping[str, int] = field(default_factory=dict)
    poison: Sequence[bytes] = ()
    dead_letters: Sequence[bytes] = ()
    anomalies: Sequence[str] = ()


@dataclass
class Verdict:
    """
    What was found: the violations, each with the ids (or sentences) that it is about, and figures.

    lost: promised, and neither delivered nor honestly given up. duplicated: more mails than were allowed. phantom: a
    mail, a row or an event of something that nobody asked for, or a mail of an id that says nothing was sent. stuck:
    no terminal state at the end. untold: not exactly one terminal event. contradicted: two of ledger, topic and GET
    disagree, or something was told after the end. rejected: good, and treated as bad. poison_lost: bad, and nowhere.
    """

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    poison_lost: list[str] = field(default_factory=list)
    anomalies: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)

    VIOLATIONS = (
        *("lost", "duplicated", "phantom", "stuck", "untold", "contradicted", "rejected", "poison_lost", "anomalies"),
    )

    @property
    def violations(self) -> dict[str, list[str]]:
        """Each kind of violation that was found, with what it is about. Empty: every promise was kept."""
        return {kind: found for kind in self.VIOLATIONS if (found := getattr(self, kind))}

    def line(self) -> str:
        """Return the figures that a person wants first."""
        names = ("lost", "duplicated", "phantom", "in_doubt", "stuck", "dead_lettered", "extra_forwarded")
        counts = {kind: len(getattr(self, kind)) for kind in self.VIOLATIONS} | self.figures
        further = [kind for kind in self.VIOLATIONS if kind not in names and counts[kind]]
        return "  ".join(f"{name} {counts.get(name, 0)}" for name in (*names, *further))


def check(facts: Facts) -> Verdict:
    """Hold *facts* against each other."""
    found = Verdict(anomalies=list(facts.anomalies))
    told: defaultdict[str, list[Told]] = defaultdict(list)
    for event in facts.results:
        told[event.id].append(event)
    changes = {each: [event for event in events if event.status != "rejected"] for each, events in told.items()}

    # A promise holds for what was acknowledged; and what got in without its client knowing is owed as much.
    owed = facts.acknowledged | facts.ledger.keys() | {each for each, events in changes.items() if events}
    for each in owed & facts.offered.keys():
        offer, state, mails = facts.offered[each], facts.ledger.get(each), facts.mails.get(each, ())
        _judge_state(found, each, offer, state, mails)
        _judge_events(found, each, state, changes.get(each, []))
        if facts.shown.get(each, state) != state:
            found.contradicted.append(f"{each}: GET says {facts.shown[each]}, the ledger {state}")
    found.phantom += sorted((owed | facts.mails.keys()) - facts.offered.keys())
    found.phantom += sorted((facts.mails.keys() & facts.offered.keys()) - owed)
    found.rejected += sorted(
        each
        for each, events in told.items()
        if each in facts.offered and any(event.status == "rejected" for event in events)
    )
    _judge_poison(found, facts)
    found.figures |= _figures(facts, owed)
    return found


def _judge_state(found: Verdict, each: str, offer: Offer, state: str | None, mails: Sequence[str]) -> None:
    if len(mails) > (2 if offer.resend else 1) or len(set(mails)) > 1:
        found.duplicated.append(each)
    if state is None or (state == "sent" and not mails):
        found.lost.append(each)
    elif state not in TERMINAL:
        found.stuck.append(each)
    elif state == "bounced" and not offer.may_bounce:
        # Given up, and nobody had refused it for good.
        found.lost.append(each)
    if mails and state in WITHOUT_MAIL:
        found.phantom.append(each)


def _judge_events(found: Verdict, each: str, state: str | None, events: list[Told]) -> None:
    ends = [event for event in events if event.terminal]
    if len(ends) != 1:
        if state is None or state in TERMINAL:  # what is stuck has been said already
            found.untold.append(f"{each}: {len(ends)} terminal events")
        return
    if ends[0].status != state:
        found.contradicted.append(f"{each}: the topic says {ends[0].status}, the ledger {state}")
    if any(event.seq > ends[0].seq for event in events) or len({event.seq for event in events}) < len(events):
        found.contradicted.append(f"{each}: something was told after the end, or twice under one number")


def _judge_poison(found: Verdict, facts: Facts) -> None:
    dead = set(facts.dead_letters)
    found.poison_lost += [repr(value[:60]) for value in facts.poison if value not in dead]
    bad = set(facts.poison)
    found.rejected += [f"dead letter: {value[:60]!r}" for value in dead - bad]


def _figures(facts: Facts, owed: Iterable[str]) -> dict[str, int]:
    owed = set(owed)
    states: defaultdict[str, int] = defaultdict(int)
    for each in owed:
        states[facts.ledger.get(each, "none")] += 1
    return {
        "offered": len(facts.offered),
        "acknowledged": len(facts.acknowledged),
        "owed": len(owed),
        "mails": sum(map(len, facts.mails.values())),
        "dead_lettered": len(facts.dead_letters),
        "extra_forwarded": sum(facts.forwarded.values()) - len(facts.forwarded),
        "compared_by_get": len(facts.shown),
        "in_doubt": 0,
        **dict(sorted(states.items())),
    }
