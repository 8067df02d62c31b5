"""A side that loses, repeats or invents mails gets no figure."""

from types import SimpleNamespace

import pytest

from tests.bench.machine import Calm, Cost
from tests.bench.parts import QUICK, Parts, Turn
from tests.bench.report import CPU, Figures, Target, spread, table

ASKED = ["a", "b", "c"]


class FakeSink:
    """Took *mails*."""

    def __init__(self, mails):
        self.mails = mails

    def wait_for(self, count, within_s):
        return {"count": len(self.mails)}

    def taken(self, path):
        return [(each, 1) for each in self.mails]


class FakeSide:
    """A side whose ledger calls *sent* of those it is asked about sent."""

    name = "fake"

    def __init__(self, sent):
        self._sent = sent

    def settle(self):
        pass

    def sent(self, ids):
        return len(self._sent & set(ids))


def problems(tmp_path, *, mails=ASKED, sent=frozenset(ASKED), answers=None):
    parts = Parts(SimpleNamespace(home=tmp_path, sink=FakeSink(mails)), QUICK)
    turn = Turn("fake", {})
    parts._check(FakeSide(sent), turn, [(each, 0) for each in ASKED], {"answers": answers or {"202": 3}})
    return turn.problems


def test_a_side_that_does_what_it_was_asked_has_no_problems(tmp_path):
    assert problems(tmp_path) == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mails": ["a", "b"]}, "1 of 3 without a mail"),
        ({"mails": [*ASKED, "b"]}, "mails per id: [2]"),
        ({"mails": [*ASKED, "d"]}, "1 mails that nobody asked for"),
        ({"mails": ["a", "b", "d"]}, "1 mails that nobody asked for"),
        ({"sent": {"a", "b"}}, "2 of 3 are sent"),
        ({"sent": set()}, "0 of 3 are sent"),
        ({"answers": {"202": 3, "503": 1}}, "answers {'503': 1}"),
        ({"answers": {"202": 3, "0": 1}}, "answers {'0': 1}"),
    ],
    ids=["a mail lost", "a mail twice", "a stranger", "one for another", "no outcome", "no rows", "refused", "cut off"],
)
def test_a_broken_side_is_found_out(tmp_path, wrong, said):
    assert said in " | ".join(problems(tmp_path, **wrong))


def cost(**of):
    return Cost(**({"seconds": 1.0, "cpu_s": {"sender": 1.0}, "others": 0.0, "steal": 0.0} | of))


def test_a_turn_on_a_noisy_machine_is_objected_to():
    calm = Calm()
    calm._speeds = [100.0] * 9
    assert calm.objections((98.0, 103.0), cost()) == []
    assert "80% off" in calm.objections((20.0, 100.0), cost())[0]
    assert "steal 20%" in calm.objections((100.0, 100.0), cost(steal=0.2))[0]
    assert "others used 30%" in calm.objections((100.0, 100.0), cost(others=0.3))[0]


def test_the_table_says_of_each_target_whether_every_round_met_it():
    figures = Figures()
    for ours, theirs in ((1200, 100), (900, 100), (1500, 100)):
        figures.add(
            "P4",
            {
                "relevo": Turn("relevo", {"rate_per_s": ours}, cost(), 1000),
                "celery-tuned": Turn("celery-tuned", {"rate_per_s": theirs}, cost(), 50),
            },
        )
    lines = table(figures, (), {})
    assert lines[0].split()[-2:] == ["target", "met"]
    rate, cpu = lines[1:3]
    assert "12 (9-15)" in rate
    assert rate.endswith(">= 10   by the median")
    assert "0.05 (0.05-0.05)" in cpu
    assert cpu.endswith("<= 0.1  yes")


def test_targets():
    assert Target(True, 10).judge([10, 11]) == "yes"
    assert Target(True, 10).judge([9, 9, 11]) == "no"
    assert CPU.judge([0.05, 0.09, 0.2]) == "by the median"
    assert spread([3400.0, 12.345, 50]) == "50 (12.3-3,400)"
