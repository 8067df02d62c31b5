"""
The channel's switch: off while the relay refuses us or is away, and not the notification's fault.

Bad credentials would refuse every notification alike, and a relay that is away hears of none. None of them pays for
it with an attempt: they wait, one probe at a time asks again, and readiness tells. Where a person must act, a metric
of its own calls for one.
"""

import asyncio
from collections.abc import Awaitable, Callable

from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import BREAKER_OPEN, CHANNEL_STOPPED
from sender.replies import Judgement, Verdict

log = get_logger()

# From one probe to the next: short at first, because most connections that fail are back in a moment.
PROBE_WAIT_S_MIN = 0.5
PROBE_WAIT_S_MAX = 15.0

STOPS = frozenset({Verdict.CONFIGURATION, Verdict.UNREACHABLE})


class Channel:
    """
    Open, or stopped and being probed.

    Args:
        probe: asks the relay whether it takes us now, without a notification.
    """

    def __init__(self, probe: Callable[[], Awaitable[Judgement]], readiness: Readiness) -> None:
        self._probe = probe
        self._readiness = readiness
        self._open = asyncio.Event()
        self._open.set()
        self._probing: asyncio.Task[None] | None = None
        CHANNEL_STOPPED.set(0)
        BREAKER_OPEN.set(0)

    async def wait_open(self) -> None:
        """Return when the channel is open."""
        await self._open.wait()

    def stop(self, judgement: Judgement) -> None:
        """Stop the channel for the reason that *judgement* gives. Stopped already: no effect."""
        if not self._open.is_set():
            return
        self._open.clear()
        self._show(judgement)
        log.error("channel_stopped", verdict=judgement.verdict, code=judgement.code, smtp=judgement.smtp)
        self._probing = asyncio.create_task(self._probe_until_open())

    async def close(self) -> None:
        """Cease to probe."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _probe_until_open(self) -> None:
        wait_s = PROBE_WAIT_S_MIN
        while True:
            await asyncio.sleep(wait_s)
            try:
                judgement = await self._probe()
            except Exception:
                # A bug of ours, and nobody else would ever open the channel again.
                log.exception("probe_broke")
                continue
            if judgement.verdict not in STOPS:
                break
            self._show(judgement)
            log.warning("channel_still_stopped", code=judgement.code, smtp=judgement.smtp)
            wait_s = min(wait_s * 2, PROBE_WAIT_S_MAX)
        CHANNEL_STOPPED.set(0)
        BREAKER_OPEN.set(0)
        self._readiness.green("smtp")
        log.info("channel_opened")
        self._open.set()

    def _show(self, judgement: Judgement) -> None:
        """Tell why it is stopped now: a relay may come back and then refuse us."""
        refused = judgement.verdict is Verdict.CONFIGURATION
        CHANNEL_STOPPED.set(int(refused))
        BREAKER_OPEN.set(int(not refused))
        why = "the relay refuses us" if refused else "the relay is away"
        self._readiness.red("smtp", f"{why}: {judgement.smtp or judgement.code}")
