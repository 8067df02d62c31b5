"""The checker finds what is wrong, and only that. One id in order, and each way in which it may not be."""

import pytest

from tests.chaos.checker import Facts, Offer, Told, check

GOOD = {
    "offered": {"a": Offer()},
    "acknowledged": frozenset({"a"}),
    "mails": {"a": ["<a@x>"]},
    "ledger": {"a": "sent"},
    "results": [Told("a", 1, "queued", False), Told("a", 2, "sent", True)],
    "shown": {"a": "sent"},
    "forwarded": {"a": 1},
}


def violations(**changes):
    return set(check(Facts(**(GOOD | changes))).violations)


def ended(state):
    return {
        "ledger": {"a": state},
        "shown": {},
        "results": [Told("a", 1, "queued", False), Told("a", 2, state, True)],
    }


def test_what_is_in_order_is_left_alone():
    assert violations() == set()


def test_what_was_never_acknowledged_and_never_seen_is_nobodys_promise():
    assert violations(offered={"a": Offer(), "b": Offer()}) == set()


@pytest.mark.parametrize("count", [0, 1])
def test_in_doubt_is_honest_with_and_without_a_mail(count):
    assert violations(**ended("in_doubt"), mails={"a": ["<a@x>"] * count}) == set()


def test_a_refusal_for_good_that_was_asked_for_is_in_order():
    assert violations(**ended("bounced"), mails={}, offered={"a": Offer(may_bounce=True)}) == set()


def test_retries_spent_are_in_order():
    assert violations(**ended("failed"), mails={}) == set()


def test_a_second_copy_that_was_asked_for_is_in_order_under_the_same_message_id():
    resend = {"a": Offer(resend=True)}
    assert violations(offered=resend, mails={"a": ["<a@x>", "<a@x>"]}) == set()
    assert violations(offered=resend, mails={"a": ["<a@x>", "<b@x>"]}) == {"duplicated"}
    assert violations(offered=resend, mails={"a": ["<a@x>"] * 3}) == {"duplicated"}


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        # Accepted, and the ledger, the topic and the sink have never heard of it.
        ({"lost", "untold"}, {"ledger": {}, "results": [], "mails": {}, "shown": {}}),
        # Said to be sent, and the sink has nothing.
        ({"lost"}, {"mails": {}}),
        # Given up, although nobody had refused it for good.
        ({"lost"}, ended("bounced") | {"mails": {}}),
        # Let in without its client being told, and then forgotten.
        ({"stuck"}, {"acknowledged": frozenset(), "ledger": {"a": "queued"}, "results": [], "mails": {}, "shown": {}}),
        ({"duplicated"}, {"mails": {"a": ["<a@x>", "<a@x>"]}}),
        # Being in doubt excuses one copy, not two.
        ({"duplicated"}, ended("in_doubt") | {"mails": {"a": ["<a@x>", "<a@x>"]}}),
        # A mail that nobody asked for; one of an id without a row; one that is said not to have been sent.
        ({"phantom"}, {"mails": {"a": ["<a@x>"], "b": ["<b@x>"]}}),
        ({"phantom"}, {"offered": {"a": Offer(), "b": Offer()}, "mails": {"a": ["<a@x>"], "b": ["<b@x>"]}}),
        ({"phantom"}, ended("failed")),
        ({"phantom"}, {"ledger": {"a": "sent", "b": "sent"}}),
        ({"stuck"}, {"ledger": {"a": "sending"}, "results": [Told("a", 1, "queued", False)], "shown": {}}),
        ({"untold"}, {"results": [Told("a", 1, "queued", False)]}),
        ({"untold"}, {"results": [Told("a", 2, "sent", True), Told("a", 3, "in_doubt", True)]}),
        ({"contradicted"}, {"results": [Told("a", 2, "failed", True)]}),
        ({"contradicted"}, {"results": [Told("a", 2, "sent", True), Told("a", 3, "retrying", False)]}),
        ({"contradicted"}, {"results": [Told("a", 2, "retrying", False), Told("a", 2, "sent", True)]}),
        ({"contradicted"}, {"shown": {"a": "queued"}}),
        ({"rejected"}, {"results": [*GOOD["results"], Told("a", 0, "rejected", False)]}),
        ({"rejected"}, {"dead_letters": [b"good"]}),
        ({"poison_lost"}, {"poison": [b"bad"]}),
        ({"anomalies"}, {"anomalies": ["409 for the same content"]}),
    ],
)
def test_each_way_to_break_a_promise_is_found(expected, changes):
    assert violations(**changes) == expected


def test_poison_in_the_dead_letters_is_where_it_belongs():
    assert violations(poison=[b"bad"], dead_letters=[b"bad", b"bad"]) == set()


def test_the_line_for_people_has_every_figure():
    verdict = check(Facts(**(GOOD | {"forwarded": {"a": 3}, "dead_letters": [b"x"], "poison": [b"x"]})))
    assert verdict.line() == (
        "lost 0  duplicated 0  phantom 0  in_doubt 0  stuck 0  dead_lettered 1  extra_forwarded 2"
    )
