"""Orders to replay: what may be asked for, and every error at once."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from infra.metrics import REPLAYED
from ingest.replay_batch import Advance
from ingest.replay_work import ReplayWork
from ingest.replays import FORCEABLE, Selection, Skip, Wanted, counts_of_skips, read_selection, read_wanted
from ingest.store import Backlog
from ingest.sweep import Gate
from schemas.errors import InvalidRequestError
from schemas.identity import is_made_from_key, new_id, replay_id
from schemas.limits import REPLAY_IDS_MAX, REPLAY_REASON_CHARS_MAX
from schemas.states import State

ID = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e")
OTHER = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5f")


def test_ids_alone_are_an_order_with_everything_else_by_default():
    assert read_wanted({"ids": [str(ID).upper(), str(OTHER)]}) == Wanted(
        Selection(ids=(ID, OTHER)), force=False, reason=None, rate_per_s=100, asked_by=None, dry_run=False
    )


def test_everything_that_can_be_chosen_is_read_and_kept():
    wanted = read_wanted(
        {
            "status": ["failed", "sent", "failed"],
            "from": "2026-11-24T13:00:00+01:00",
            "to": "2026-11-24T13:00:00.000001Z",
            "producer": "billing",
            "force": True,
            "reason": "Wrong amount.",
            "rate_per_s": 5.0,
            "asked_by": "ana",
            "dry_run": True,
        }
    )
    selection = Selection(
        states=(State.FAILED, State.SENT),
        accepted_from=datetime(2026, 11, 24, 12, tzinfo=UTC),
        accepted_to=datetime(2026, 11, 24, 13, 0, 0, 1, tzinfo=UTC),
        producer="billing",
    )
    expected = Wanted(selection, force=True, reason="Wrong amount.", rate_per_s=5, asked_by="ana", dry_run=True)
    assert wanted == expected
    assert read_selection(selection.as_json()) == selection
    assert read_selection(Selection(ids=(ID,)).as_json()) == Selection(ids=(ID,))


def errors_of(given):
    with pytest.raises(InvalidRequestError) as caught:
        read_wanted(given)
    return {(error.pointer, error.code) for error in caught.value.errors}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {("", "type")}),
        ({}, {("", "required")}),
        ({"dry_run": True}, {("", "required")}),
        ({"ids": []}, {("/ids", "invalid_ids")}),
        ({"ids": [str(ID)] * (REPLAY_IDS_MAX + 1)}, {("/ids", "invalid_ids")}),
        ({"ids": [str(ID), "7", 7]}, {("/ids/1", "invalid_uuid"), ("/ids/2", "invalid_uuid")}),
        ({"ids": [str(ID)], "status": ["failed"]}, {("/status", "beside_ids")}),
        ({"status": "failed"}, {("/status", "unknown_value")}),
        ({"status": ["queued"]}, {("/status", "unknown_value")}),
        ({"from": "yesterday", "to": "2026-11-24T13:00:00"}, {("/from", "invalid_time"), ("/to", "invalid_time")}),
        ({"from": "2026-11-24T13:00:00Z", "to": "2026-11-24T13:00:00Z"}, {("/to", "empty_window")}),
        ({"producer": ""}, {("/producer", "invalid_producer")}),
        ({"producer": "b", "force": True}, {("/reason", "required")}),
        ({"producer": "b", "force": 1}, {("/force", "type")}),
        ({"producer": "b", "reason": "a\nb"}, {("/reason", "invalid_text")}),
        ({"producer": "b", "reason": "x" * (REPLAY_REASON_CHARS_MAX + 1)}, {("/reason", "invalid_text")}),
        ({"producer": "b", "rate_per_s": 0}, {("/rate_per_s", "out_of_range")}),
        ({"producer": "b", "rate_per_s": True}, {("/rate_per_s", "out_of_range")}),
        ({"producer": "b", "rate_per_s": 1.5}, {("/rate_per_s", "out_of_range")}),
        ({"producer": "b", "rate_per_s": 1e300}, {("/rate_per_s", "out_of_range")}),
        ({"producer": "b", "rate": 5}, {("/rate", "unknown_field")}),
        ({"producer": None}, {("/producer", "type")}),
    ],
)
def test_every_mistake_is_told_by_its_field(given, expected):
    assert errors_of(given) == expected


def test_twenty_wrong_ids_are_told_and_none_is_repeated():
    with pytest.raises(InvalidRequestError) as caught:
        read_wanted({"ids": ["secret"] * 100})
    assert len(caught.value.errors) == 20
    assert "secret" not in str(caught.value)


def test_another_order_has_another_fingerprint():
    order = Wanted(Selection(ids=(ID,)))
    others = [
        Wanted(Selection(ids=(OTHER,))),
        Wanted(Selection(ids=(ID,)), force=True, reason="r"),
        Wanted(Selection(ids=(ID,)), rate_per_s=1),
        Wanted(Selection(states=(State.FAILED,))),
    ]
    assert order.fingerprint() == Wanted(Selection(ids=(ID,))).fingerprint()
    assert len({each.fingerprint() for each in [order, *others]}) == 5


def test_a_replay_has_one_id_for_each_order_and_original_that_nobody_else_may_use():
    order = new_id()
    assert replay_id(order, ID) == replay_id(order, ID)
    assert len({replay_id(order, ID), replay_id(order, OTHER), replay_id(new_id(), ID)}) == 3
    assert is_made_from_key(replay_id(order, ID))


def test_force_overrides_what_may_be_wanted_and_never_what_cannot_be():
    assert {Skip.UNKNOWN, Skip.REPEATED, Skip.UNDER_WAY, Skip.NO_CONTENT} == set(Skip) - FORCEABLE


def test_every_reason_is_counted_also_those_that_nobody_had():
    assert counts_of_skips({"sent": 3}) == {reason: 3 if reason is Skip.SENT else 0 for reason in Skip}


class Batches:
    """Batches that are due, then none."""

    def __init__(self, *due):
        self.due = list(due)

    async def advance(self):
        return self.due.pop(0) if self.due else None


async def test_a_turn_does_all_that_is_due_and_counts_it():
    order = new_id()
    batches = Batches(
        Advance(order, 2, {"sent": 3}, done=False),
        Advance(order, 1, {}, done=True),
    )
    before = REPLAYED.labels("replayed")._value.get(), REPLAYED.labels("sent")._value.get()
    await ReplayWork(batches, Gate(rows_max=10, age_s_max=10)).turn()
    assert not batches.due
    after = REPLAYED.labels("replayed")._value.get(), REPLAYED.labels("sent")._value.get()
    assert (after[0] - before[0], after[1] - before[1]) == (3, 3)


async def test_while_the_outbox_is_full_no_order_goes_on():
    batches = Batches(Advance(new_id(), 1, {}, done=True))
    gate = Gate(rows_max=10, age_s_max=10)
    gate.look(Backlog(rows=11, oldest_s=0))
    await ReplayWork(batches, gate).turn()
    assert len(batches.due) == 1
    gate.look(Backlog(rows=0, oldest_s=0))
    await ReplayWork(batches, gate).turn()
    assert not batches.due
