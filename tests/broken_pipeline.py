"""
`python -m tests.broken_pipeline`: the pipeline with one thing broken in it, by BREAK, once the file BREAK_AT exists.

agent       the agent waits for ever inside the living process
batches     the task that empties what the agent has gathered ends
partition   one partition stays paused
loop        something blocks the event loop for ever
"""

import asyncio
import os
import time
from pathlib import Path

from infra.lifecycle import run_service
from pipeline import __main__ as pipeline
from pipeline.agent import Batches

PAUSED_PARTITION = 2

_found: dict[str, object] = {}
_make_app = pipeline.make_app
_put = Batches.put


def make_app(settings, instance):
    app, table = _make_app(settings, instance)
    _found["app"] = app
    return app, table


def told(*what):
    return os.environ["BREAK"] in what and Path(os.environ["BREAK_AT"]).exists()


def block():
    time.sleep(3600)


async def put(self, stream, event):
    _found["batches"] = self
    if told("agent"):
        await asyncio.Event().wait()
    await _put(self, stream, event)


async def break_it():
    while not told("loop", "batches", "partition"):  # noqa: ASYNC110 -- set by another process
        await asyncio.sleep(0.1)
    if told("loop"):
        block()
    elif told("batches"):
        _found["batches"]._task.cancel()
    else:
        consumer = _found["app"].consumer
        consumer.pause_partitions({tp for tp in consumer.assignment() if tp.partition == PAUSED_PARTITION})


async def serve(settings, readiness, stop):
    breaking = asyncio.create_task(break_it())
    await pipeline.serve(settings, readiness, stop)
    breaking.cancel()


if __name__ == "__main__":
    pipeline.make_app = make_app
    Batches.put = put
    run_service("pipeline", serve)
