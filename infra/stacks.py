"""What every task and thread of this process is doing: function names and lines, no values, bounded in size."""

import asyncio
import gc
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from types import CodeType
from typing import Any

STACKS_MAX = 40
FRAMES_MAX = 12
WALK_MAX = 100


def describe_stacks() -> list[str]:
    """
    Return one line for each distinct stack, innermost call first, the most frequent stack first.

    A thousand tasks that wait at the same line are one line. Call it in the event loop.
    """
    seen = Counter(f"task: {_line(_of_task(task))}" for task in asyncio.all_tasks())
    seen.update(f"thread: {_line(_of_thread(frame))}" for frame in sys._current_frames().values())  # noqa: SLF001 -- documented, and there is no other way
    lines = [f"{count} x {stack}" for stack, count in seen.most_common(STACKS_MAX)]
    if len(seen) > STACKS_MAX:
        lines.append(f"and {len(seen) - STACKS_MAX} other stacks")
    return lines


def _of_task(task: asyncio.Task[Any]) -> Iterator[str]:
    """Walk from the task's coroutine to what it waits for, then tell it innermost first."""
    found: list[str] = []
    step: Any = task.get_coro()
    while step is not None and len(found) < WALK_MAX:
        # A coroutine, a generator, an asynchronous generator.
        for kind, awaits in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            code = getattr(step, f"{kind}_code", None)
            if code is not None:
                frame = getattr(step, f"{kind}_frame")
                found.append(_place(code, frame.f_lineno if frame is not None else 0))
                step = getattr(step, awaits)
                break
        else:
            # What stands between two of them, and shows nothing: a step of a generator, an object with __await__. A
            # future has no lines of its own, and ends the walk.
            step = next((each for each in gc.get_referents(step) if _runs(each)), None)
    return reversed(found)


def _runs(step: object) -> bool:
    return inspect.iscoroutine(step) or inspect.isgenerator(step) or inspect.isasyncgen(step)


def _of_thread(frame: Any) -> Iterator[str]:
    while frame is not None:
        yield _place(frame.f_code, frame.f_lineno)
        frame = frame.f_back


def _place(code: CodeType, line: int) -> str:
    return f"{'/'.join(PurePath(code.co_filename).parts[-2:])}:{line} {code.co_name}"


def _line(frames: Iterator[str]) -> str:
    listed = list(frames)
    more = f" < {len(listed) - FRAMES_MAX} more" if len(listed) > FRAMES_MAX else ""
    return " < ".join(listed[:FRAMES_MAX]) + more
