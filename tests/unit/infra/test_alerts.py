"""The alert rules: each can fire, says what to do, and asks for metrics and labels that exist."""

import re
import subprocess
import sys

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from infra import metrics
from infra.cli.__main__ import run_relevo
from infra.cli.output import Exit
from infra.settings import STACK_SETTINGS, Settings
from tests.processes import ROOT

ALERTS = ROOT / "infra" / "deploy" / "alerts.yml"


def rules():
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    assert group["name"] == "relevo"
    return group["rules"]


def catalogue():
    """Return the labels of each metric, by the names that it has in queries."""
    found = {}
    for each in vars(metrics).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            names = {
                Counter: [f"{family.name}_total"],
                Gauge: [family.name],
                Histogram: [f"{family.name}_{part}" for part in ("bucket", "sum", "count")],
            }[type(each)]
            found |= {name: set(each._labelnames) for name in names}
    return found


RULES = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])


@RULES
def test_it_asks_for_metrics_and_labels_of_the_catalogue(rule):
    known = catalogue()
    asked = re.findall(r"\b(relevo_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert asked
    for name, selector in asked:
        assert name in known, f"{name} is not in infra/metrics.py"
        labels = set(re.findall(r"(\w+)\s*=", selector))
        assert labels <= known[name], f"{name} has no label {labels - known[name]}"
    for label in re.findall(r"by \((\w+)\)", rule["expr"]):
        assert any(label in known[name] for name, _ in asked)
    assert rule["expr"].count("(") == rule["expr"].count(")")


@RULES
def test_it_says_how_bad_it_is_and_which_command_to_run(rule):
    assert re.fullmatch(r"Relevo[A-Z]\w+", rule["alert"])
    assert rule["labels"] in [{"severity": "critical"}, {"severity": "warning"}]
    # Without: what happened is told, though it be over.
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["annotations"].keys() == {"summary", "runbook"}
    for text in rule["annotations"].values():
        assert text.endswith(".")
    assert re.search(r"`relevo (doctor|tail|audit)\b", rule["annotations"]["runbook"])


@RULES
def test_the_settings_and_commands_that_it_names_exist(rule, capsys):
    text = " ".join(rule["annotations"].values())
    settings = STACK_SETTINGS.keys() | {f"RELEVO_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"RELEVO_[A-Z_]+", text)) <= settings
    for command in re.findall(r"`relevo ([^`]*)`", text):
        assert run_relevo([*command.split(), "--help"]) == Exit.OK


def test_no_two_have_the_same_name():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "series", ['relevo_put_back_total{reason="forgotten"}', 'relevo_outcomes_total{state="in_doubt"}']
)
def test_what_must_not_happen_even_once_is_counted_from_zero(series):
    # A series that begins with its first event has not increased: an alert on its increase would miss that one.
    told = subprocess.run(
        [sys.executable, "-c", "import infra.metrics, prometheus_client as p; print(p.generate_latest().decode())"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{series} 0.0\n" in told.stdout
