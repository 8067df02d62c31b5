"""
What the mailbox can be told to do to a mail, and the count of how often it did. No I/O, no clock.

The scenario is the text between the last "+" and the "@" of a recipient, as in `ana+451x2@example.com`:

| scenario      | at             | the mailbox                                                   | the mail is |
| ------------- | -------------- | ------------------------------------------------------------- | ----------- |
| (none)        |                | accepts                                                       | kept        |
| 400 to 599    | RCPT           | refuses with this code (REPLIES has the texts)                | not kept    |
| 421           | RCPT           | answers 421 and closes the connection                         | not kept    |
| slowrcpt2     | RCPT           | accepts after 2 s                                             | kept        |
| dropdata      | during DATA    | closes the connection before the final dot                    | not kept    |
| dot400 to 599 | the final dot  | refuses with this code; dot421 closes the connection as well  | not kept    |
| slowdot5      | the final dot  | keeps the mail at once, answers 250 after 5 s                 | kept        |
| dropdot       | the final dot  | keeps the mail, closes the connection without a reply         | kept        |
| hangdot       | the final dot  | keeps the mail, never answers                                 | kept        |

An "x" and a number at the end is how many times; after that many the recipient is an ordinary one: `451x2` refuses
twice, then accepts. Without it: always. One scenario for each address; of several recipients of one mail the first
whose scenario belongs to DATA or to the dot decides. Anything else after a "+" means nothing here.

POST /api/scenario sets two more for the whole relay, each with one count for all mails together: one for every
recipient that carries no scenario of its own, and one of the codes 400 to 599 with which MAIL is refused.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

# A client has long given up by then; it also keeps a delay below the 300 s after which an idle connection is closed.
DELAY_S_MAX = 240
TIMES_MAX = 1_000_000
# Recipients whose counts are remembered. Of more, the one first counted is forgotten, and starts anew.
COUNTED_RECIPIENTS_MAX = 200_000

REPLIES = {
    421: "4.3.2 Service shutting down, try again later",
    450: "4.2.1 Mailbox busy, try again later",
    451: "4.7.1 Greylisted, try again later",
    452: "4.2.2 Mailbox full, try again later",
    550: "5.1.1 No such user here",
    551: "5.1.6 User has moved",
    552: "5.2.2 Mailbox full",
    553: "5.1.3 Mailbox name not allowed",
    554: "5.7.1 Refused by policy",
}
# At the dot it is the message that is judged, no longer the recipient.
REPLIES_TO_DOT = {
    451: "4.3.0 Local error, try again later",
    452: "4.3.1 Insufficient storage, try again later",
    550: "5.7.1 Refused as spam",
    552: "5.3.4 Message too big",
    554: "5.6.0 Message refused",
}


class Step(StrEnum):
    """Where in the conversation a scenario acts."""

    RCPT = "rcpt"
    DATA = "data"  # after the 354, before the final dot
    DOT = "dot"


class Act(StrEnum):
    """What the mailbox does there."""

    REFUSE = "refuse"  # replies; with 421 it closes the connection too
    DELAY = "delay"  # replies as if nothing were, later
    DROP = "drop"  # closes the connection without a reply
    HANG = "hang"  # never replies


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    One row of the table.

    text: as it was written, without the times.
    reply: the whole reply line, for REFUSE only. delay_s: for DELAY only.
    times: how often before all is ordinary again; None is always.
    """

    text: str
    act: Act
    at: Step
    reply: str = ""
    delay_s: float = 0.0
    times: int | None = None

    def __str__(self) -> str:
        """Return what parse_scenario reads as this."""
        return self.text if self.times is None else f"{self.text}x{self.times}"

    @property
    def closes(self) -> bool:
        """Tell whether the connection is closed after the reply. RFC 5321 3.8: that is what 421 announces."""
        return self.reply.startswith("421")


_GRAMMAR = re.compile(
    r"(?P<text>(?P<dot>dot)?(?P<code>[45][0-9]{2})"
    r"|slow(?P<slow>rcpt|dot)(?P<delay_s>[0-9]{1,3})"
    r"|(?P<bare>dropdata|dropdot|hangdot))"
    r"(?:x(?P<times>[0-9]{1,7}))?"
)

_BARE = {
    "dropdata": (Act.DROP, Step.DATA),
    "dropdot": (Act.DROP, Step.DOT),
    "hangdot": (Act.HANG, Step.DOT),
}


def parse_scenario(text: str) -> Scenario | None:
    """
    Read a scenario as the table in this module has them; capitals do not matter.

    Returns:
        None when it is none of them, or its number is out of range (times: 1 to TIMES_MAX, seconds: up to DELAY_S_MAX).
    """
    found = _GRAMMAR.fullmatch(text.lower())
    if found is None:
        return None
    times = None if found["times"] is None else int(found["times"])
    if times is not None and not 1 <= times <= TIMES_MAX:
        return None
    if found["code"]:
        at = Step.DOT if found["dot"] else Step.RCPT
        return Scenario(found["text"], Act.REFUSE, at, reply=_reply(int(found["code"]), at), times=times)
    if found["slow"]:
        delay_s = int(found["delay_s"])
        if delay_s > DELAY_S_MAX:
            return None
        return Scenario(found["text"], Act.DELAY, Step(found["slow"]), delay_s=delay_s, times=times)
    act, at = _BARE[found["bare"]]
    return Scenario(found["text"], act, at, times=times)


def scenario_of(recipient: str) -> Scenario | None:
    """Return the scenario that an address carries; None for an ordinary one."""
    local_part = recipient.rpartition("@")[0]
    _, plus, text = local_part.rpartition("+")
    return parse_scenario(text) if plus else None


def _reply(code: int, at: Step) -> str:
    texts = REPLIES | REPLIES_TO_DOT if at is Step.DOT else REPLIES
    return f"{code} {texts.get(code, f'{code // 100}.0.0 Refused on request')}"


class Script:
    """
    What the mailbox has been told to do, and how often it already did. In memory only: a restart begins anew.

    relay: for every recipient that carries no scenario of its own, with the times that are left; None when there is
        none (any more).
    sender: how MAIL is refused, likewise.
    accepting: False answers new connections, and the MAIL of those that are open, with 421.
    """

    def __init__(self) -> None:
        self.relay: Scenario | None = None
        self.sender: Scenario | None = None
        self.accepting = True
        self._left: dict[str, int] = {}

    def next_for_sender(self) -> Scenario | None:
        """Return how to refuse this MAIL, and count it as done. None: accept."""
        refusal = self.sender
        self.sender = None if refusal is None else _one_less(refusal)
        return refusal

    def next_at(self, step: Step, recipients: list[str]) -> Scenario | None:
        """
        Return what to do at this step of one transaction, and count it as done. None: behave.

        Args:
            recipients: at RCPT the one that is asked for, later all of them.
        """
        ordinary = False
        for recipient in recipients:
            scenario = scenario_of(recipient)
            ordinary = ordinary or scenario is None
            if scenario is not None and scenario.at is step and self._take(recipient, scenario):
                return scenario
        relay = self.relay
        if not ordinary or relay is None or relay.at is not step:
            return None
        self.relay = _one_less(relay)
        return relay

    def _take(self, recipient: str, scenario: Scenario) -> bool:
        if scenario.times is None:
            return True
        key = recipient.lower()
        left = self._left.get(key, scenario.times)
        if left == 0:
            return False
        if key not in self._left and len(self._left) >= COUNTED_RECIPIENTS_MAX:
            del self._left[next(iter(self._left))]
        self._left[key] = left - 1
        return True


def _one_less(scenario: Scenario) -> Scenario | None:
    if scenario.times is None:
        return scenario
    return replace(scenario, times=scenario.times - 1) if scenario.times > 1 else None
