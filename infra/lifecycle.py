"""The frame of each service: settings, logs, traces, the operators' door, signals, and an end that is bounded."""

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable

from infra.certificates import require_certificates
from infra.failpoints import arm
from infra.health import Readiness
from infra.logs import get_logger, start_logging
from infra.loop_guard import LoopGuard
from infra.ops import OpsServer
from infra.refusal import on_refusal, refusal
from infra.settings import Settings, load_settings
from infra.telemetry import start_tracing
from schemas.errors import ConfigurationError, TransientError

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h: trying again will not help

# Below the 30 s that orchestrators grant between SIGTERM and SIGKILL.
STOP_S_MAX = 25.0
# New objects after which the collector looks for cycles; by default 700, which is a look for every few notifications. A
# look takes a millisecond or two then, and what waits for it is a few megabytes.
GARBAGE_LOOK_EVERY = 50_000
# For the last spans, after that.
FLUSH_S_MAX = 3.0

log = get_logger()

Body = Callable[[Settings, Readiness, asyncio.Event], Awaitable[None]]


def instance_name(settings: Settings) -> str:
    """Return the name of this process: as configured, or host and process id."""
    return settings.instance or f"{socket.gethostname()}-{os.getpid()}"


def run_service(service: str, body: Body) -> None:
    """
    Run one service until SIGTERM or SIGINT, then leave within STOP_S_MAX + FLUSH_S_MAX.

    Args:
        body: gets the settings, a readiness that it turns green, and an event that is set when it is to end. It
            returns when it has drained. What it had not finished it leaves unacknowledged.
    Exits with 0 after a signal, with EXIT_CONFIGURATION when a person must mend the configuration (`refuse` says so
    from anywhere, and the body drains as after a signal), and with 1 when it broke; whoever started it starts it again.
    """
    try:
        settings = load_settings()
        require_certificates(service, settings)
    except ConfigurationError as error:
        sys.stderr.write(f"relevo {service}: {error}\n")
        sys.exit(EXIT_CONFIGURATION)
    instance = instance_name(settings)
    arm(settings.failpoint)
    start_logging(service, instance, settings.log_level)
    traces = start_tracing(service, instance)
    code = 1
    try:
        code = _run(service, settings, body)
    finally:
        # A collector that does not answer would hold it for ten seconds and more.
        flushing = threading.Thread(target=traces.shutdown, daemon=True)
        flushing.start()
        flushing.join(FLUSH_S_MAX)
        sys.stdout.flush()
        # Not sys.exit: a thread of a client that hangs on a dead server would keep the process alive.
        os._exit(code)


def _run(service: str, settings: Settings, body: Body) -> int:
    # What is loaded by now stays, and need not be looked at again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_LOOK_EVERY)
    import uvloop  # noqa: PLC0415 -- not on every platform; only services need it

    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    refused = None
    try:
        # The loop is not closed afterwards: asyncio would cancel what is left and wait for it, and some clients
        # swallow a cancellation while their server is away.
        loop.run_until_complete(_supervise(settings, body))
    except ConfigurationError as error:
        refused = error
    except Exception:
        log.exception("service_broke")
        if refusal() is None:
            return 1
    refused = refused or refusal()
    if refused is None:
        return 0
    log.error("configuration_refused", error=str(refused))
    sys.stderr.write(f"relevo {service}: {refused}\n")
    return EXIT_CONFIGURATION


async def _supervise(settings: Settings, body: Body) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def end() -> None:
        loop.call_soon_threadsafe(stop.set)

    on_refusal(end)
    readiness = Readiness("start")
    ops = OpsServer(readiness)
    port = await ops.start(settings.ops_host, settings.ops_port)
    log.info("service_started", pid=os.getpid(), ops_port=port)
    guard = LoopGuard()
    guard.start()
    work = asyncio.ensure_future(body(settings, readiness, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        readiness.red("stop", "stopping")
        log.info("service_stopping")
        await asyncio.wait({work}, timeout=STOP_S_MAX)
    if not work.done():
        # Nothing is lost by leaving hard: what is unfinished is unacknowledged. Waiting longer might never end,
        # some clients swallow a cancellation.
        log.warning("service_left_hard")
        return
    stopping.cancel()
    try:
        await work
    except TransientError:
        # Told to stop while it still waited for a server: nothing had begun.
        if not stop.is_set():
            raise
    await ops.stop()
    guard.stop()
    log.info("service_stopped")
