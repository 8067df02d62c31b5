"""What is installed is exactly what was written down, checked byte for byte."""

import re
import tomllib

import pytest

from tests.house.source import ROOT, text_of

LOCKS = ("requirements/runtime.txt", "requirements/dev.txt")


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def entries(lock):
    """Return {name: its lines} of each requirement in *lock*."""
    found = {}
    current = None
    for line in text_of(lock).splitlines():
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" "):
            current = name_of(line)
            assert current not in found, f"{lock} names {current} twice"
            found[current] = []
        found[current].append(line)
    return found


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def asked_for_by_project(lock):
    return {name for name, lines in entries(lock).items() if any("relevo (pyproject.toml)" in line for line in lines)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_with_hashes(lock):
    found = entries(lock)
    assert len(found) > 30
    for name, lines in found.items():
        assert re.match(r"[A-Za-z0-9._\[\],-]+==[^\s;]+", lines[0]), f"{name} in {lock} is not pinned; run `make lock`"
        assert any(re.search(r"--hash=sha256:[0-9a-f]{64}\b", line) for line in lines), (
            f"{name} in {lock} has no hash; run `make lock`"
        )


@pytest.mark.parametrize("lock", LOCKS)
def test_where_packages_come_from_is_decided_elsewhere(lock):
    options = [line for line in text_of(lock).splitlines() if line.startswith("-") or "://" in line or " @ " in line]
    assert not options, f"take these lines out of {lock}: {options}"


def test_the_lock_holds_what_the_project_asks_for():
    wanted = {name_of(each) for each in project()["project"]["dependencies"]}
    assert wanted == asked_for_by_project("requirements/runtime.txt"), (
        "pyproject.toml and the lock differ: run `make lock`"
    )


def test_the_lock_holds_the_versions_that_the_project_asks_for():
    for requirement in project()["project"]["dependencies"]:
        pinned = re.match(r"[A-Za-z0-9._-]+(?:\[[a-z]+\])?==([^\s;]+)", requirement)
        if pinned:
            line = entries("requirements/runtime.txt")[name_of(requirement)][0]
            assert f"=={pinned[1]} " in f"{line} ", f"the lock has {line.split()[0]}: run `make lock`"


def test_what_develops_is_what_runs_and_more():
    runtime, dev = entries("requirements/runtime.txt"), entries("requirements/dev.txt")
    groups = project()["dependency-groups"]
    asked = {name_of(each) for group in ("stack", "test") for each in groups[group]}
    assert asked <= dev.keys(), "run `make lock`"
    assert runtime.keys() <= dev.keys(), "run `make lock`"
    differ = [name for name in runtime if runtime[name][0].split()[0] != dev[name][0].split()[0]]
    assert not differ, f"other versions in dev.txt than in runtime.txt, run `make lock`: {differ}"
