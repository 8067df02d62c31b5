"""What an address can tell the mailbox to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.mailbox import scenarios
from infra.mailbox.scenarios import Act, Script, Step, parse_scenario, scenario_of


@pytest.mark.parametrize(
    ("text", "act", "at", "times"),
    [
        ("451", Act.REFUSE, Step.RCPT, None),
        ("451x2", Act.REFUSE, Step.RCPT, 2),
        ("550", Act.REFUSE, Step.RCPT, None),
        ("dot550", Act.REFUSE, Step.DOT, None),
        ("dot451x1", Act.REFUSE, Step.DOT, 1),
        ("slowrcpt2", Act.DELAY, Step.RCPT, None),
        ("slowdot5x3", Act.DELAY, Step.DOT, 3),
        ("dropdata", Act.DROP, Step.DATA, None),
        ("dropdotx1", Act.DROP, Step.DOT, 1),
        ("hangdot", Act.HANG, Step.DOT, None),
        ("HangDot", Act.HANG, Step.DOT, None),
    ],
)
def test_each_row_of_the_table_is_understood(text, act, at, times):
    scenario = parse_scenario(text)
    assert scenario is not None
    assert (scenario.act, scenario.at, scenario.times) == (act, at, times)
    assert str(scenario) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        *("", "250", "600", "45", "4510", "451x", "451x0", "451x1000001", "x2", "451\n", "451 ", "451.550", "news"),
        *("dot", "dotdropdata", "dropdata5", "slowdot", "slowdot241", "slowdata1"),
    ],
)
def test_what_is_not_in_the_table_means_nothing(text):
    assert parse_scenario(text) is None
    assert scenario_of(f"ana+{text}@example.com") is None


@given(st.text(max_size=12))
def test_no_text_breaks_the_parser(text):
    scenario = parse_scenario(text)
    assert scenario is None or scenario.times is None or 1 <= scenario.times <= scenarios.TIMES_MAX


def test_a_refusal_says_what_it_is_about():
    assert parse_scenario("550").reply == "550 5.1.1 No such user here"
    assert parse_scenario("dot550").reply == "550 5.7.1 Refused as spam"
    assert parse_scenario("599").reply == "599 5.0.0 Refused on request"


@pytest.mark.parametrize("text", ["421", "dot421"])
def test_421_closes_and_nothing_else_does(text):
    assert parse_scenario(text).closes
    assert not parse_scenario(text.replace("421", "451")).closes


def test_the_scenario_is_the_text_after_the_last_plus():
    assert scenario_of("ana+news+451@example.com").text == "451"
    assert scenario_of("ana+451+news@example.com") is None
    assert scenario_of("451@example.com") is None
    assert scenario_of("ana@x+451.example.com") is None
    assert scenario_of("+451@example.com").text == "451"


def test_times_are_counted_for_each_recipient():
    script = Script()

    def refused(address: str) -> bool:
        return script.next_at(Step.RCPT, [address]) is not None

    assert [refused("a+451x2@example.com") for _ in range(4)] == [True, True, False, False]
    assert refused("b+451x2@example.com")
    assert not refused("A+451x2@EXAMPLE.com")


def test_a_scenario_waits_for_its_own_step():
    script = Script()
    assert script.next_at(Step.RCPT, ["a+dot451x1@example.com"]) is None
    assert script.next_at(Step.DATA, ["a+dot451x1@example.com"]) is None
    assert script.next_at(Step.DOT, ["b@example.com", "a+dot451x1@example.com"]).text == "dot451"
    assert script.next_at(Step.DOT, ["b@example.com", "a+dot451x1@example.com"]) is None


def test_the_scenario_of_the_relay_counts_for_all_together():
    script = Script()
    script.relay = parse_scenario("451x2")
    answers = [script.next_at(Step.RCPT, [f"{name}@example.com"]) for name in "abc"]
    assert [answer is not None for answer in answers] == [True, True, False]
    assert script.relay is None


def test_what_is_left_of_a_scenario_can_be_seen():
    script = Script()
    script.relay = parse_scenario("451x3")
    script.next_at(Step.RCPT, ["a@example.com"])
    assert str(script.relay) == "451x2"


def test_the_scenario_of_the_relay_ends_when_it_is_taken_back():
    script = Script()
    script.relay = parse_scenario("550")
    assert script.next_at(Step.RCPT, ["a@example.com"]) is not None
    script.relay = None
    assert script.next_at(Step.RCPT, ["a@example.com"]) is None


def test_the_scenario_of_the_relay_leaves_recipients_with_their_own_alone():
    script = Script()
    script.relay = parse_scenario("451")
    assert script.next_at(Step.RCPT, ["a+550@example.com"]).text == "550"
    assert script.next_at(Step.RCPT, ["a+slowdot1@example.com"]) is None
    assert script.next_at(Step.RCPT, ["a+news@example.com"]).text == "451"


def test_of_several_recipients_one_without_a_scenario_is_enough_for_that_of_the_relay():
    script = Script()
    script.relay = parse_scenario("dot550")
    assert script.next_at(Step.DOT, ["a+550x1@example.com"]) is None
    assert script.next_at(Step.DOT, ["a+550x1@example.com", "b@example.com"]).text == "dot550"


def test_a_sender_is_refused_as_often_as_was_said():
    script = Script()
    assert script.next_for_sender() is None
    script.sender = parse_scenario("550x1")
    assert script.next_for_sender().text == "550"
    assert script.next_for_sender() is None


def test_the_memory_of_counts_is_bounded(monkeypatch):
    monkeypatch.setattr(scenarios, "COUNTED_RECIPIENTS_MAX", 2)
    script = Script()
    for name in "abc":
        assert script.next_at(Step.RCPT, [f"{name}+451x1@example.com"])
    assert script.next_at(Step.RCPT, ["c+451x1@example.com"]) is None
    assert script.next_at(Step.RCPT, ["a+451x1@example.com"])  # forgotten, so it starts anew
