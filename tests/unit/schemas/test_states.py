"""States move one way, along one table."""

import pytest

from schemas.states import ALLOWED, IN_LEDGER, TERMINAL, State, states_before
from schemas.tables import METADATA


def test_the_table_speaks_of_every_state_and_of_nothing_else():
    assert set(ALLOWED) == set(State)
    assert set().union(*ALLOWED.values()) <= set(State)


def test_the_terminal_states_are_those_of_the_contract():
    assert {str(state) for state in TERMINAL} == {
        *("sent", "failed", "bounced", "in_doubt", "suppressed", "expired", "cancelled", "rejected")
    }


def test_nothing_leaves_a_terminal_state_but_a_late_bounce():
    left = {(before, after) for before in TERMINAL for after in ALLOWED[before]}
    assert left == {(State.SENT, State.BOUNCED)}


def test_every_open_state_can_end():
    for state in set(State) - TERMINAL:
        seen, waiting = set(), [state]
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting.extend(ALLOWED[each])
        assert seen & TERMINAL, state


def test_every_state_of_the_ledger_but_the_first_can_be_entered():
    assert {state for state in IN_LEDGER if not states_before(state)} == {State.QUEUED}


def test_a_rejection_is_no_state_of_the_ledger():
    assert set(IN_LEDGER) == set(State) - {State.REJECTED}
    assert states_before(State.REJECTED) == ()


@pytest.mark.parametrize("after", list(State))
def test_states_before_is_the_table_read_backwards(after):
    before = states_before(after)
    assert set(before) == {state for state in State if after in ALLOWED[state]}
    assert list(before) == sorted(before, key=list(State).index)


def test_a_message_is_sent_only_by_who_claimed_it():
    assert states_before(State.SENT) == (State.SENDING,)
    # Retrying: of a copy that was to follow a doubt, and had no time left.
    assert states_before(State.IN_DOUBT) == (State.SENDING, State.RETRYING)
    assert State.SENDING not in states_before(State.SENDING)


@pytest.mark.parametrize(("table", "constraint"), [("notifications", "state_is_known"), ("events", "status_is_known")])
def test_the_database_takes_exactly_the_states_of_the_ledger(table, constraint):
    (check,) = [each for each in METADATA.tables[table].constraints if each.name == constraint]
    listed = str(check.sqltext).partition("IN (")[2].rstrip(")").replace("'", "").split(", ")
    assert listed == [state.value for state in IN_LEDGER]


def test_a_new_row_is_queued():
    assert METADATA.tables["notifications"].c.state.server_default.arg == "queued"
