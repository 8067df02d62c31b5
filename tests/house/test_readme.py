"""
The README's tables are the code's.

They stand between markers, such as `<!-- settings -->` and `<!-- /settings -->`. To write them anew:
`python -m tests.house.test_readme`.
"""

import re
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from prometheus_client import Counter, Gauge, Histogram

from infra import metrics
from infra.settings import STACK_SETTINGS, Settings
from schemas.topics import DAY_MS, TOPICS

README = Path(__file__).parents[2] / "README.md"

_UNITS = {"_per_s": "per second", "_per_min": "per minute", "_s": "seconds", "_bytes": "bytes", "_rows": "rows"}


def _row(*cells):
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _table(heads, rows):
    return "\n".join([_row(*heads), _row(*("---" for _ in heads)), *(_row(*row) for row in rows)])


def _type_of(annotation: Any):
    arguments = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is tuple:
        return "texts, separated by commas"
    if get_origin(annotation) is not None and arguments and get_origin(annotation) in {Union, type(int | str)}:
        return _type_of(arguments[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{each.value}`" for each in annotation)
    return {int: "whole number", float: "number", str: "text", Path: "file"}[annotation]


def _unit_of(name):
    stem = name if name.endswith("_per_min") else name.removesuffix("_max").removesuffix("_min")
    return next((unit for suffix, unit in _UNITS.items() if stem.endswith(suffix)), "")


def _default_of(default):
    if default in ("", None, ()):
        return "empty"
    return f"`{default.value if isinstance(default, Enum) else default}`"


def settings_table():
    rows = [
        (
            f"`RELEVO_{name.upper()}`",
            _type_of(field.annotation),
            _unit_of(name),
            _default_of(field.default),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    for name, told in STACK_SETTINGS.items():
        meaning, _, default = told.partition("; default ")
        rows.append((f"`{name}`", "local stack", "", default, meaning))
    return _table(("setting", "type", "unit", "default", "meaning"), rows)


def metrics_table():
    rows = []
    for each in vars(metrics).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            name = family.name + ("_total" if isinstance(each, Counter) else "")
            labels = ", ".join(f"`{label}`" for label in each._labelnames)
            rows.append((f"`{name}`", type(each).__name__.lower(), labels, family.documentation))
    return _table(("metric", "kind", "labels", "meaning"), rows)


def topics_table():
    return _table(
        ("topic", "partitions", "kept for", "cleanup", "largest record", "holds"),
        [
            (
                f"`{topic.name}`",
                topic.partitions,
                "ever" if topic.retention_ms < 0 else f"{topic.retention_ms / DAY_MS:g} days",
                topic.cleanup_policy,
                f"{topic.record_bytes_max:,} bytes",
                topic.holds,
            )
            for topic in TOPICS
        ],
    )


TABLES = {"settings": settings_table, "metrics": metrics_table, "topics": topics_table}


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_says_what_the_code_says(name):
    assert README.exists(), "write it: python -m tests.house.test_readme"
    found = re.search(f"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", README.read_text(encoding="utf-8"), re.DOTALL)
    expected = TABLES[name]()
    assert found, f"README.md needs the markers <!-- {name} --> and <!-- /{name} --> around this table:\n{expected}"
    assert found[1].strip() == expected, (
        f"run `python -m tests.house.test_readme`, or put this between the {name} markers:\n{expected}"
    )


def test_every_setting_and_metric_says_what_it_means():
    assert all(field.description for field in Settings.model_fields.values())
    assert all("; default " in told for told in STACK_SETTINGS.values())
    assert "|  |" not in metrics_table().replace("counter |  |", "").replace("gauge |  |", "").replace(
        "histogram |  |", ""
    )


def test_metrics_are_named_as_prometheus_asks():
    for each in vars(metrics).values():
        if isinstance(each, Counter | Gauge | Histogram):
            (family,) = each.describe()
            assert family.name.startswith("relevo_")
            assert not family.name.endswith(("_ms", "_milliseconds", "_minutes")), "seconds are the base unit"
            assert not set(each._labelnames) & {"id", "address", "email", "host", "client", "topic_partition"}, (
                "unbounded"
            )


def write():
    """Bring the tables in README.md up to date; a README that is missing is made of them alone."""
    empty = "\n".join(f"## {name.capitalize()}\n\n<!-- {name} -->\n<!-- /{name} -->\n" for name in TABLES)
    text = README.read_text(encoding="utf-8") if README.exists() else empty
    for name, table in TABLES.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        assert begin and end, f"{README.name} has no markers for {name}"  # noqa: PT018 -- one is nothing without the other
        text = f"{before}{begin}{table()}\n{end}{after}"
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
