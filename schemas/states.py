"""
The states of a notification and the moves between them.

This table is the only one. The SQL predicates of the ledger are generated from it
(`states_before`), the OpenAPI and result enums are tested against it.
"""

from collections.abc import Iterable
from enum import StrEnum


class State(StrEnum):
    """Where a notification is. States move one way; see ALLOWED."""

    QUEUED = "queued"  # accepted and durable; nobody has tried to send it yet
    SCHEDULED = "scheduled"  # accepted and durable; not before its time will anybody try to send it
    SENDING = "sending"  # a worker has claimed it and may be handing it to the relay right now
    RETRYING = "retrying"  # an attempt failed for a passing reason; another will follow
    SENT = "sent"  # the relay took responsibility for it; nobody says that it was read or even delivered
    FAILED = "failed"  # every allowed attempt failed for a passing reason
    BOUNCED = "bounced"  # refused for good
    IN_DOUBT = "in_doubt"  # handed over, but the answer was never seen: it may or may not have arrived
    SUPPRESSED = "suppressed"  # never offered to the relay: its recipient is one that is not written to
    EXPIRED = "expired"  # its time ran out before it could be sent
    CANCELLED = "cancelled"  # called off before anybody had claimed it
    REJECTED = "rejected"  # a record that never became a notification; it has no row in the ledger


# Where a notification may go that nobody has claimed.
_TRIED = frozenset({State.SENDING, State.RETRYING, State.FAILED, State.BOUNCED})
_CALLED_OFF = frozenset({State.SUPPRESSED, State.EXPIRED, State.CANCELLED})

ALLOWED: dict[State, frozenset[State]] = {
    State.QUEUED: _TRIED | _CALLED_OFF | {State.SCHEDULED},
    State.SCHEDULED: _TRIED | _CALLED_OFF | {State.SCHEDULED},
    State.SENDING: frozenset({State.SENT, State.RETRYING, State.FAILED, State.BOUNCED, State.IN_DOUBT}),
    # In doubt, when its one answer that counts was never seen and there is no time left for the copy it asked for.
    State.RETRYING: _TRIED | _CALLED_OFF | {State.IN_DOUBT},
    # An asynchronous bounce report may follow a successful hand-over. Nothing else changes a terminal state.
    State.SENT: frozenset({State.BOUNCED}),
    State.FAILED: frozenset(),
    State.BOUNCED: frozenset(),
    State.IN_DOUBT: frozenset(),
    State.SUPPRESSED: frozenset(),
    State.EXPIRED: frozenset(),
    State.CANCELLED: frozenset(),
    State.REJECTED: frozenset(),
}

TERMINAL: frozenset[State] = (
    frozenset({State.SENT, State.FAILED, State.BOUNCED, State.IN_DOUBT, State.REJECTED}) | _CALLED_OFF
)

# The states that a row of the ledger can have.
IN_LEDGER: tuple[State, ...] = tuple(state for state in State if state is not State.REJECTED)

# Nearly every notification goes through these, and through no other; what is in another one is worth an index.
COMMON: frozenset[State] = frozenset({State.QUEUED, State.SENDING, State.SENT})
RARE: tuple[State, ...] = tuple(state for state in IN_LEDGER if state not in COMMON)


def states_before(after: State) -> tuple[State, ...]:
    """Return the states from which *after* may be entered, in the order of the enum; empty: only at birth."""
    return tuple(state for state in State if after in ALLOWED[state])


def sql_states(states: Iterable[State]) -> str:
    """Return *states* as they stand in a predicate: `state IN (...)`."""
    return ", ".join(f"'{state}'" for state in states)
