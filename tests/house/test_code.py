"""The rules of the house that a machine can check. Each failure says what to do."""

import ast
import re

import pytest

from tests.house.source import PACKAGES, comments_of, modules, text_of, tracked, tree_of

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70

# What is longer, and why it may be. An entry that is no longer needed fails too.
LONG: dict[str, str] = {
    "schemas/migrations/versions/0001_first.py: upgrade": "a list of tables, easier to compare in one piece",
}

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "core", "misc"}

# Who speaks to a person on a terminal.
MAY_PRINT = ("infra/cli/", "infra/stack/", "infra/mailbox/", "infra/examples/")

MAY_READ_ENVIRONMENT = {
    "infra/settings.py": "it is the place",
    "infra/telemetry.py": "the OTEL_* names belong to OpenTelemetry",
    "infra/cli/where.py": "tells a person whether an address came from the environment",
}


def test_there_is_something_to_check():
    assert len(modules()) > 40
    assert {name.partition("/")[0] for name in modules()} == set(PACKAGES)


def test_no_module_has_a_name_that_could_hold_anything():
    vague = [name for name in tracked() if VAGUE_NAMES & {part.removesuffix(".py") for part in name.split("/")}]
    assert not vague, f"name each by what is in it: {vague}"


def _functions(name):
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_and_functions_fit_on_a_few_screens():
    long = {name for name in modules() if text_of(name).count("\n") > FILE_LINES_MAX}
    long |= {
        f"{name}: {function}"
        for name in modules()
        for function, lines in _functions(name)
        if lines > FUNCTION_LINES_MAX
    }
    assert long - LONG.keys() == set(), "which noun is missing? Take it out, or explain it in LONG"
    assert LONG.keys() - long == set(), "no longer so long: take it out of LONG"


def test_only_the_catalogue_makes_metrics():
    makers = [
        name
        for name in modules()
        if name != "infra/metrics.py"
        and re.search(r"prometheus_client import .*\b(Counter|Gauge|Histogram|Summary|Info|Enum)\b", text_of(name))
    ]
    assert not makers, f"declare the metric in infra/metrics.py and import it: {makers}"


def _reads_environment(name):
    for node in ast.walk(tree_of(name)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr in {"environ", "environb", "getenv"}
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
        ):
            return True
        if (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {each.name for each in node.names} & {"environ", "getenv"}
        ):
            return True
    return False


def test_only_the_settings_read_the_environment():
    readers = {name for name in modules() if _reads_environment(name) and not name.startswith("infra/stack/")}
    assert readers - MAY_READ_ENVIRONMENT.keys() == set(), (
        "make it a setting in infra/settings.py and take it as an argument"
    )
    assert MAY_READ_ENVIRONMENT.keys() - readers == set(), "it no longer does: take it out of MAY_READ_ENVIRONMENT"


def test_nobody_prints_but_who_speaks_to_a_person():
    printing = [
        f"{name}:{node.lineno}"
        for name in modules()
        if not name.startswith(MAY_PRINT)
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"print", "pprint", "breakpoint"}
    ]
    assert not printing, f"log an event instead: {printing}"


EXCEPTION = re.compile(r"noqa\b|type:\s*ignore")
EXPLAINED = [
    re.compile(r"#\s*noqa: [A-Z]+[0-9]+(, [A-Z]+[0-9]+)* -- \S.{8,}"),
    re.compile(r"#\s*type: ignore\[[a-z, -]+\]\s+(#|--) \S.{8,}"),
]


def test_every_exception_from_a_check_carries_its_reason():
    bare = [
        f"{name}:{line}"
        for name in (*modules(), *modules("tests"))
        for line, comment in comments_of(name)
        if EXCEPTION.search(comment) and not any(form.search(comment) for form in EXPLAINED)
    ]
    assert not bare, f"write `# noqa: CODE -- reason` or `# type: ignore[code]  # reason`: {bare}"


# The examples are for people who do not have our code.
NAME_TOPICS = ("schemas/", "infra/examples/producers/")


@pytest.mark.parametrize("name", [name for name in modules() if not name.startswith(NAME_TOPICS)])
def test_topics_are_named_in_the_catalogue_only(name):
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    literals = [
        f"{name}:{node.lineno}"
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Constant)
        and id(node) not in docstrings
        and isinstance(node.value, str)
        and re.search(r"(?<![\w./])notifications\.(requested|deduplicated|results|status|dlq)\b", node.value)
    ]
    assert not literals, f"use schemas.topics: {literals}"


def test_nothing_of_this_machine_is_in_the_files():
    # A hidden registry, a mirror or somebody's home would make the clone work here and nowhere else.
    foreign = re.compile(
        r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/|index-url\s*[= ]\s*\S*:/|--trusted-host|--find-links"
        r"|https?://(?!(?:127\.0\.0\.1|localhost|\[::1\])[:/])[\w.-]*(?:artifactory|nexus|pypi-mirror|proxy|registry\.internal)[\w.-]*"
    )
    found = []
    for name in tracked():
        if name.startswith("tests/house/"):
            continue
        try:
            lines = text_of(name).splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name}:{number}: {line.strip()[:80]}" for number, line in enumerate(lines, 1) if foreign.search(line)
        ]
    assert not found, "take the address or path out, or make it a setting:\n" + "\n".join(found)
