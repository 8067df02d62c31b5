"""One event is one line of JSON, whatever is in it."""

import io
import json
import logging
import sys
import time
from types import SimpleNamespace

import pytest
import structlog

from infra import logs
from infra.logs import LIBRARY_INTERVAL_S, LIBRARY_LINES_MAX, get_logger, start_logging
from infra.metrics import LOG_LINES_HELD_BACK


@pytest.fixture
def lines(monkeypatch):
    """Start logging into memory; a function that returns what was logged."""
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=output, flush=lambda: None))
    monkeypatch.setattr(logs, "LIBRARY_INTERVAL_S", LIBRARY_INTERVAL_S)
    root = logging.getLogger()
    before = root.handlers[:], root.level, structlog.get_config()
    start_logging("sender", "sender-1", "info")
    yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    root.handlers[:], _ = before[0], root.setLevel(before[1])
    structlog.configure(**before[2])


def test_a_line_says_what_where_and_when(lines):
    get_logger().info("outbox_published", rows=3)
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "outbox_published",
        "level": "info",
        "rows": 3,
        "service": "sender",
        "instance": "sender-1",
    }


def test_below_the_level_nothing_is_written(lines):
    get_logger().debug("detail")
    assert lines() == []


@pytest.mark.parametrize(
    "value",
    [
        'x\n{"event": "forged", "level": "critical"}',
        "a\r\nb\x00\x1b[31m\u2028\u2029\x85",
        "\ud800",
        b"\xff\n",
        2**70,
        float("nan"),
        {"nested": [{1, 2}, object]},
        ValueError("x\ny"),
    ],
    ids=ascii,
)
def test_nothing_breaks_a_line_or_a_caller(lines, value):
    get_logger().warning("read", value=value)
    get_logger().warning("after")
    assert [line["event"] for line in lines()] == ["read", "after"]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("x\n{}", ()),
        ("%s", ("a\nb",)),
        ("%s %s", ("too few",)),
        ("%d", ("no number",)),
        ("%(name)s", ({"other": 1},)),
        ("\udcff", ()),
    ],
)
def test_nothing_that_a_library_says_breaks_a_line_or_the_library(lines, message, arguments):
    # Straight to our handler: pytest's own, beside it, raises on purpose.
    (ours,) = [each for each in logging.getLogger().handlers if isinstance(each, logs._LibraryHandler)]
    ours.handle(logging.LogRecord("library", logging.ERROR, "", 0, message, arguments, None))
    (line,) = lines()
    assert (line["event"], line["logger"], line["service"]) == ("library_logged", "library", "sender")


def test_libraries_speak_from_warning_on(lines):
    logging.getLogger("library").info("detail")
    logging.getLogger("library").warning("news")
    assert [line["message"] for line in lines()] == ["news"]


def test_a_library_that_floods_is_held_back_and_counted(lines, monkeypatch):
    held_back = LOG_LINES_HELD_BACK.labels("aiokafka")._value
    before = held_back.get()
    for number in range(3000):
        logging.getLogger("aiokafka.conn").error("no broker, try %d", number)
    logging.getLogger("asyncpg").warning("another one is heard")
    assert [line["logger"] for line in lines()] == ["aiokafka.conn"] * LIBRARY_LINES_MAX + ["asyncpg"]
    assert held_back.get() - before == 3000 - LIBRARY_LINES_MAX
    later = time.monotonic() + LIBRARY_INTERVAL_S + 1
    monkeypatch.setattr(logs.time, "monotonic", lambda: later)
    logging.getLogger("aiokafka.conn").error("still none")
    assert lines()[-1]["message"] == "still none"


def test_of_a_librarys_error_only_the_name_is_told(lines):
    try:
        raise ValueError("canary@example.org")
    except ValueError:
        logging.getLogger("library").exception("it broke")
    (line,) = lines()
    assert (line["message"], line["error"]) == ("it broke", "ValueError")
    assert "canary" not in json.dumps(line)


def test_a_long_message_is_cut(lines):
    logging.getLogger("library").error("x" * 100_000)
    assert len(lines()[0]["message"]) == 2000
