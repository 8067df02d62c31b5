"""
In-memory stand-ins for the servers, for tests below integration.

Each behaves as the real thing does, errors included; tests/contract runs one suite over both.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from pipeline.table import Answer
from schemas.errors import TransientError
from schemas.states import TERMINAL, State, states_before
from sender.ledger import Standing
from sender.parking import PARKED, Expired
from sender.replies import Judgement, Verdict


class FakeTable:
    """The Redis-backed table in a dict. `away` is how many calls in a row find nobody."""

    def __init__(self):
        self.entries: dict[UUID, tuple[str, bytes, str]] = {}
        self.away = 0

    async def claim(self, claims):
        self._answer_or_not()
        answers = []
        for claim in claims:
            state, fingerprint, coordinates = self.entries.get(claim.id, ("", b"", ""))
            if not state:
                self.entries[claim.id] = ("claimed", claim.fingerprint[:8], claim.coordinates)
                answers.append(Answer.NEW)
            elif fingerprint != claim.fingerprint[:8]:
                answers.append(Answer.CONFLICT)
            elif state == "done":
                answers.append(Answer.DUPLICATE)
            else:
                answers.append(Answer.REPLAY if coordinates == claim.coordinates else Answer.SUSPECT)
        return answers

    async def complete(self, claims):
        self._answer_or_not()
        for claim in claims:
            known = self.entries.get(claim.id)
            if known is None or known[1] == claim.fingerprint[:8]:
                self.entries[claim.id] = ("done", claim.fingerprint[:8], "")

    async def clear(self):
        self.entries.clear()

    def _answer_or_not(self):
        if self.away:
            self.away -= 1
            raise TransientError("Redis: away")


class FakeWriter:
    """The producer as a list of what the broker acknowledged."""

    def __init__(self):
        self.written: list[tuple[str, object]] = []
        self.away = 0

    async def write(self, topic, records):
        if self.away and records:
            self.away -= 1
            raise TransientError("Kafka: away")
        self.written += [(topic.name, record) for record in records]

    write_by_key = write

    def on(self, topic):
        return [record for name, record in self.written if name == topic.name]


class FakeLedger:
    """
    The ledger in dicts, as one worker sees it. Other workers are other instances over the same `rows`.

    `cancel` and `reschedule` are what ingest does to the same rows.
    """

    def __init__(self, rows=None, events=None, leases=None):
        self.worker = uuid4()
        self.rows: dict[UUID, dict] = {} if rows is None else rows
        self.events: list[dict] = [] if events is None else events
        self.leases: set[UUID] = set() if leases is None else leases
        self.away = 0

    def beside(self):
        """Return another worker over the same database."""
        return FakeLedger(self.rows, self.events, self.leases)

    async def renew_lease(self, lease_s):
        self._answer_or_not()
        self.leases.add(self.worker)

    async def end_lease(self):
        self.leases.discard(self.worker)

    async def enrol(self, enrolments):
        self._answer_or_not()
        for each in enrolments:
            content = each.notification.content
            waits = content.scheduled_for is not None and content.scheduled_for > datetime.now(UTC)
            fresh = {
                "state": State.SCHEDULED if waits else State.QUEUED,
                "attempt": 0,
                "seq": 1,
                "worker": None,
                "parked": waits,
                "due": False,
                "doubts": 0,
                "forward": None,
                "on_doubt": content.on_doubt,
                "expires_at": content.expires_at,
                "fingerprint": each.fingerprint,
                "accepted_at": each.accepted_at,
            }
            self.rows.setdefault(each.notification.id, fresh)
        return {each.notification.id: self._standing(each.notification.id) for each in enrolments}

    async def standing(self, notification_id):
        self._answer_or_not()
        return self._standing(notification_id) if notification_id in self.rows else None

    async def claim(self, notification_id, attempt, forward=None):
        self._answer_or_not()
        row = self.rows[notification_id]
        fresh = row["attempt"] == attempt - 1 and row["state"] in states_before(State.SENDING)
        mine = row["attempt"] == attempt and row["state"] is State.SENDING and row["worker"] == self.worker
        if self.worker not in self.leases or row["parked"] or _late(row) or not (fresh or mine):
            return False
        row.update(state=State.SENDING, attempt=attempt, worker=self.worker, due=False)
        row["forward"] = row["forward"] or forward
        return True

    async def unclaim(self, notification_id, attempt):
        self._answer_or_not()
        row = self.rows[notification_id]
        if (row["attempt"], row["state"], row["worker"]) == (attempt, State.SENDING, self.worker):
            row.update(state=State.RETRYING, attempt=attempt - 1, worker=None)

    async def record(self, outcome):
        self._answer_or_not()
        row = self.rows[outcome.id]
        claimed = (row["attempt"], row["state"], row["worker"]) == (outcome.attempt, State.SENDING, self.worker)
        unclaimed = (
            not outcome.claimed
            and row["attempt"] == outcome.attempt - 1
            and row["state"] in {State.QUEUED, State.SCHEDULED, State.RETRYING}
            and not row["parked"]
        )
        if claimed or unclaimed:
            row.update(
                state=outcome.state,
                attempt=outcome.attempt,
                seq=row["seq"] + 1,
                worker=None,
                parked=outcome.next_attempt_at is not None,
                doubts=row["doubts"] + outcome.doubt,
                forward=row["forward"] or outcome.forward,
            )
            event = {"id": outcome.id, "seq": row["seq"], "status": outcome.state, "attempt": outcome.attempt}
            self.events.append(event | {"published": False})
        for event in self.events:
            if (event["id"], event["attempt"], event["status"]) == (outcome.id, outcome.attempt, outcome.state):
                return event["seq"]
        return None

    async def give_up_abandoned(self, *, grace_s):
        given_up = []
        for notification_id, row in self.rows.items():
            if row["state"] is State.SENDING and row["worker"] not in self.leases:
                again = row["on_doubt"] == "resend" and row["doubts"] == 0
                state = State.RETRYING if again else State.IN_DOUBT
                row.update(state=state, seq=row["seq"] + 1, worker=None, parked=again, doubts=row["doubts"] + 1)
                event = {"id": notification_id, "seq": row["seq"], "status": state, "attempt": row["attempt"]}
                self.events.append(event | {"published": False})
                given_up.append(state)
        return given_up

    async def expire(self, notification_id):
        self._answer_or_not()
        row = self.rows[notification_id]
        unused = row["state"] is State.SENDING and row["worker"] == self.worker
        if not _late(row) or not (unused or row["state"] in states_before(State.EXPIRED)):
            return None
        return self._expire(notification_id)

    async def expire_parked(self, *, rows_max=500):
        self._answer_or_not()
        late = [each for each, row in self.rows.items() if (row["parked"] or row["due"]) and _late(row)]
        return [self._expire(each) for each in late[:rows_max]]

    def _expire(self, notification_id):
        row = self.rows[notification_id]
        state = State.IN_DOUBT if row["doubts"] else State.EXPIRED
        self._move(notification_id, state, row["attempt"] - (row["state"] is State.SENDING))
        return Expired(state, test=False)

    async def cancel(self, notification_id):
        row = self.rows[notification_id]
        if row["state"] not in states_before(State.CANCELLED) or row["doubts"]:
            return False
        self._move(notification_id, State.CANCELLED, row["attempt"])
        return True

    async def reschedule(self, notification_id, due_at):
        row = self.rows[notification_id]
        later = due_at is not None and due_at > datetime.now(UTC)
        if row["state"] not in states_before(State.SCHEDULED) or not (later or row["state"] is State.SCHEDULED):
            return False
        if _late(row) or (later and row["expires_at"] is not None and row["expires_at"] <= due_at):
            return False
        self._move(notification_id, State.SCHEDULED, row["attempt"])
        row["parked"], row["due"] = later, not later
        return True

    def _move(self, notification_id, state, attempt):
        row = self.rows[notification_id]
        row.update(state=state, attempt=attempt, seq=row["seq"] + 1, worker=None, parked=False, due=False)
        event = {"id": notification_id, "seq": row["seq"], "status": state, "attempt": attempt}
        self.events.append(event | {"published": False})

    async def take_due(self, *, rows_max=500, lease_s=30.0):
        """As if all that is parked were due."""
        self._answer_or_not()
        waiting = [each for each, row in self.rows.items() if row["parked"] or row["due"]]
        due = [each for each in waiting if self.rows[each]["state"] in PARKED][:rows_max]
        for each in due:
            self.rows[each].update(parked=False, due=False)
        return due

    def _standing(self, notification_id):
        row = self.rows[notification_id]
        standing = Standing(
            row["state"],
            row["attempt"],
            row["fingerprint"],
            row["accepted_at"],
            parked=row["parked"],
            doubts=row["doubts"],
            expired=_late(row),
        )
        if row["state"] is State.SENDING and row["worker"] == self.worker:
            return replace(standing, state=State.RETRYING, attempt=row["attempt"] - 1)
        return standing

    def _answer_or_not(self):
        if self.away:
            self.away -= 1
            raise TransientError("Postgres: away")

    def terminal_events(self, notification_id):
        return [each["status"] for each in self.events if each["id"] == notification_id and each["status"] in TERMINAL]


def _late(row):
    return row["expires_at"] is not None and row["expires_at"] <= datetime.now(UTC)


class FakeRelay:
    """
    A relay that answers from a script; when it runs out, it takes everything.

    Each step is a judgement, and whether it comes before the recipient was accepted (so before the claim).
    """

    def __init__(self, *script: tuple[Judgement, bool]):
        self.script = list(script)
        self.taken: list[str] = []
        self.offered = 0
        self.before_answer = None

    async def send(self, mail, before_message):
        self.offered += 1
        judgement, early = self.script.pop(0) if self.script else (ACCEPTED, False)
        if early:
            return judgement
        if not await before_message():
            return None
        if judgement.verdict in {Verdict.ACCEPTED, Verdict.IN_DOUBT}:
            self.taken.append(mail.recipient)
        if self.before_answer is not None:
            await self.before_answer()
        await asyncio.sleep(0)
        return judgement


ACCEPTED = Judgement(Verdict.ACCEPTED, "smtp_250", "250 2.0.0 OK", 250)
UNREACHABLE = Judgement(Verdict.UNREACHABLE, "connection_refused")
TRANSIENT = Judgement(Verdict.TRANSIENT, "smtp_451", "451 4.7.1 later", 451)
PERMANENT = Judgement(Verdict.PERMANENT, "smtp_550", "550 5.1.1 no such user", 550)
IN_DOUBT = Judgement(Verdict.IN_DOUBT, "connection_lost")
CONFIGURATION = Judgement(Verdict.CONFIGURATION, "smtp_535", "535 5.7.8 no", 535)
