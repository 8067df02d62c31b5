"""The smallest service, run as a process by test_lifecycle: `python tiny_service.py HOW`."""

import asyncio
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from opentelemetry.trace import SpanKind

from infra import lifecycle, telemetry
from infra.refusal import refuse
from schemas.errors import ConfigurationError, TransientError


async def swallow_everything():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


async def body(_settings, readiness, stop):
    how = sys.argv[1]
    if how == "misconfigured":
        raise ConfigurationError("topic notifications.requested does not exist: run `relevo topics apply`")
    if how == "broken":
        raise RuntimeError("a bug")
    readiness.green("start")
    if how == "traces to nobody":
        with telemetry.span("x", SpanKind.CLIENT):
            pass
    if how == "ends":
        return
    if how == "leaves a task":
        asyncio.get_running_loop()._kept = asyncio.create_task(swallow_everything())
    if how == "leaves a thread":
        asyncio.get_running_loop()._kept = asyncio.create_task(asyncio.to_thread(time.sleep, 60))
    if how == "hangs":
        await swallow_everything()
    if how == "refused elsewhere":
        threading.Thread(target=refuse, args=(ConfigurationError("RELEVO_INSTANCE: taken"),)).start()
    await stop.wait()
    if how == "refused elsewhere":
        refuse(ConfigurationError("told once"))
    if how == "waits for a server":
        raise TransientError("Kafka cannot be reached")
    if how == "breaks at the end":
        raise RuntimeError("a bug")


lifecycle.STOP_S_MAX = 1.0
lifecycle.FLUSH_S_MAX = 0.5
lifecycle.run_service("tiny", body)
