"""Waiting for a server that is away: the one place that says how often to ask again."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity

from infra.logs import get_logger
from schemas.errors import TransientError

log = get_logger()

Answer = TypeVar("Answer")

WAIT_S_MIN = 0.05
WAIT_S_MAX = 2.0


def _never() -> bool:
    return False


def _ignore(_error: TransientError) -> None:
    pass


async def until_through(
    step: str,
    call: Callable[[], Awaitable[Answer]],
    *,
    on_failure: Callable[[TransientError], None] = _ignore,
    give_up: Callable[[], bool] = _never,
) -> Answer:
    """
    Repeat *call* until it no longer raises TransientError, and return what it returns.

    Waits between the calls grow from WAIT_S_MIN to WAIT_S_MAX, with jitter.
    Args:
        step: what is being tried, for the log.
        call: something that may be repeated.
        on_failure: called with each TransientError, before give_up is asked.
        give_up: asked after each failure.
    Raises:
        TransientError: *give_up* said so; the last one.
        Exception: whatever else *call* raises.
    """
    # Nearly always the first call is through, and then the apparatus would cost more than what it watches over.
    try:
        return await call()
    except TransientError as error:
        failed = [error]

    async def once() -> Answer:
        if failed:
            raise failed.pop()
        return await call()

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, TransientError), "nothing else is retried"
        on_failure(error)
        # The first ones, then fewer and fewer: an outage of an hour is not worth two thousand lines.
        if state.attempt_number in {1, 3, 10, 30} or state.attempt_number % 100 == 0:
            log.warning("step_postponed", step=step, attempt=state.attempt_number, error=str(error))

    attempts = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_exponential_jitter(multiplier=WAIT_S_MIN, max=WAIT_S_MAX, jitter=WAIT_S_MIN),
        stop=lambda _state: give_up(),
        after=report,
        reraise=True,
    )
    return await attempts(once)
