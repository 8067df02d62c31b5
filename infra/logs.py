"""
Logs: one JSON object per line on standard output.

Event names are constant, what varies is in fields. Fields hold identifiers, never a subject, a body or an
address that is not masked. Libraries log through the same line format, and no more than a few lines each ten
seconds: a client that cannot reach its broker would write thousands.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson

# For a renderer that nothing here uses, structlog loads rich where it finds it: five megabytes in every service.
_rich_was_loaded = sys.modules.setdefault("rich", None) is not None  # type: ignore[arg-type]  # as importlib defines it
import structlog  # noqa: E402 -- see above

if not _rich_was_loaded:
    del sys.modules["rich"]

from infra.metrics import LOG_LINES_HELD_BACK  # noqa: E402 -- see above

LIBRARY_LINES_MAX = 5
LIBRARY_INTERVAL_S = 10.0

Logger = structlog.typing.FilteringBoundLogger


def start_logging(service: str, instance: str, level: str) -> None:
    """
    Send every log of this process to standard output as JSON lines. Call once, first of all.

    Args:
        level: of our own lines; libraries speak from warning on.
    """
    structlog.configure(
        processors=[_Line(service, instance)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.BytesLoggerFactory(file=sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler(service, instance)]
    root.setLevel(logging.WARNING)


def get_logger() -> Logger:
    """Return the logger. `logger.info("outbox_published", rows=3)`: the event, past tense, then its fields."""
    logger: Logger = structlog.get_logger()
    return logger


class _Line:
    """
    Makes the line of one event. One step instead of a chain of them: each request leaves a line, and a chain costs
    as much as the rest of what a request does.
    """

    def __init__(self, service: str, instance: str) -> None:
        self._process = {"service": service, "instance": instance}

    def __call__(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> bytes:
        failed = event.pop("exc_info", None)
        line = {**event, **self._process, "level": level, "time": datetime.now(UTC).isoformat()[:-6] + "Z"}
        if failed:
            info = failed if isinstance(failed, tuple) else sys.exc_info()
            line["exception"] = "".join(traceback.format_exception(*info)).rstrip()
        return _to_json(line)


def _to_json(event: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=str)
    except TypeError:
        # A lone surrogate (how Python shows bytes that are no UTF-8) or a number beyond 64 bits: rare, and no reason
        # for a log line to break what it tells of.
        return json.dumps(event, default=str).encode()


class _LibraryHandler(logging.Handler):
    """Writes what libraries log, LIBRARY_LINES_MAX lines per logger and interval, and counts what it holds back."""

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._lines = get_logger()
        self._fields = {"service": service, "instance": instance}
        self._seen: dict[str, tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        begun, lines = self._seen.get(record.name, (0.0, 0))
        now = time.monotonic()
        if now - begun > LIBRARY_INTERVAL_S:
            begun, lines = now, 0
        self._seen[record.name] = (begun, lines + 1)
        if lines >= LIBRARY_LINES_MAX:
            LOG_LINES_HELD_BACK.labels(record.name.split(".")[0]).inc()
            return
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- a library's mistake in a log line must not become its failure
            message = str(record.msg)
        failed = record.exc_info if record.exc_info and record.exc_info[0] is not None else None
        self._lines.log(
            record.levelno,
            "library_logged",
            **self._fields,
            logger=record.name,
            message=message[:2000],
            error=failed[0].__name__ if failed and failed[0] else None,
        )
