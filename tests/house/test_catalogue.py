"""ARCHITECTURE.md names a test for each known fault, or says why it cannot happen: the tests that it names exist."""

import ast
import re

import pytest

from tests.house.source import text_of, tracked, tree_of

HEADING = "## What can go wrong, and the test that shows it does not"
FAULTS_MIN = 63

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows():
    """Return the lines of the table: fault, what is said of it."""
    text = text_of("ARCHITECTURE.md")
    assert text.count(HEADING) == 1, f"ARCHITECTURE.md needs the section {HEADING!r}"
    section = text.partition(HEADING)[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def named():
    return sorted({found.groups() for _, said in rows() for found in NAMED.finditer(said)})


def collected_in(name):
    """Return the names of the functions that pytest would collect from a file, without importing it."""
    return {
        node.name
        for node in tree_of(name).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(("name", "test"), named())
def test_a_test_that_is_named_exists(name, test):
    assert name in tracked(), f"ARCHITECTURE.md names {name}, which does not exist: name the test that took its place"
    assert test in collected_in(name), f"ARCHITECTURE.md names {test}, which is not in {name}: correct the table"


def test_every_fault_has_its_line_and_its_test():
    faults = [fault for fault, _ in rows()]
    assert len(faults) >= FAULTS_MIN, "a fault that can no longer happen keeps its line, and says why"
    assert len(set(faults)) == len(faults), "one line for each fault"
    without = [fault for fault, said in rows() if not NAMED.search(said) and "Cannot happen" not in said]
    assert not without, f"name a test, or say why it cannot happen: {without}"
    broken = [said for _, said in rows() if "tests/" in NAMED.sub("", said)]
    assert not broken, f"write tests as `tests/…/test_x.py::test_y`: {broken}"
