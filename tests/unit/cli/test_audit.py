"""The account of a window, over every way it can come out uneven."""

from infra.cli.audit import Told, _fold, balance

SINCE, UNTIL, WITHIN, OUTSIDE = "2026-11-24T10", "2026-11-24T12", "2026-11-24T11:00:00.000Z", "2026-11-24T12:30:00.000Z"


def told(status, *terminal, at=WITHIN):
    return Told(at, 2, status, list(terminal))


def account(states, topic, known=None):
    return balance(states, set(states) if known is None else known, topic, SINCE, UNTIL)


def test_finished_and_in_flight_come_out_even():
    found = account(
        {"a": "sent", "b": "queued", "c": "retrying", "d": "sent"},
        {"a": told("sent", "sent"), "b": told("queued"), "d": told("sent", "sent")},
    )
    assert found.balanced
    assert (found.accepted, found.finished, found.in_flight) == (4, {"sent": 2}, {"queued": 1, "retrying": 1})


def test_an_id_that_the_pipeline_told_of_and_no_ledger_knows_is_a_gap():
    found = account({}, {"lost": told("queued")})
    assert (found.accepted, found.gap, found.balanced) == (1, ("lost",), False)


def test_an_id_of_another_window_is_no_gap():
    assert account({}, {"late": told("queued", at=OUTSIDE)}).balanced
    assert account({}, {"early": told("sent", "sent")}, known={"early"}).balanced


def test_an_end_that_the_topic_does_not_tell_is_untold():
    assert account({"a": "sent"}, {"a": told("queued")}).untold == ("a",)
    assert account({"a": "in_doubt"}, {}).untold == ("a",)


def test_two_ends_or_another_end_disagree():
    assert account({"a": "sent"}, {"a": told("sent", "in_doubt", "sent")}).disagreeing == ("a",)
    assert account({"a": "sent"}, {"a": told("failed", "failed")}).disagreeing == ("a",)
    assert account({"a": "queued"}, {"a": told("sent", "sent")}).disagreeing == ("a",)


def test_copies_and_rejections_are_folded_away():
    found = {}
    sent = {"id": "a", "seq": 2, "status": "sent", "terminal": True, "accepted_at": WITHIN}
    for each in (sent | {"seq": 1, "status": "queued", "terminal": False}, sent, sent):
        _fold(found, each)
    _fold(found, {"id": "a", "seq": 0, "status": "rejected", "terminal": True, "accepted_at": WITHIN})
    _fold(found, {"id": None, "seq": 0, "status": "rejected", "terminal": True, "accepted_at": WITHIN})
    _fold(found, None)
    assert found == {"a": Told(WITHIN, 2, "sent", ["sent"])}
