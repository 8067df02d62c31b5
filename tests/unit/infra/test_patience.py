"""Waiting for a server that is away."""

import pytest

from infra import patience
from infra.patience import until_through
from schemas.errors import ConfigurationError, TransientError


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Wait for nothing, and remember for how long it would have been."""
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    return waited


class Server:
    """Fails *failures* times, then answers."""

    def __init__(self, failures):
        self.failures = [TransientError(f"failure {number}") for number in range(failures)]
        self.calls = 0

    async def __call__(self):
        self.calls += 1
        if self.calls <= len(self.failures):
            raise self.failures[self.calls - 1]
        return "answer"


@pytest.mark.parametrize("failures", [0, 1, 5])
async def test_it_is_asked_until_it_answers(failures):
    server, seen = Server(failures), []
    assert await until_through("step", server, on_failure=seen.append) == "answer"
    assert server.calls == failures + 1
    assert seen == server.failures


async def test_a_lambda_will_do():
    server = Server(1)
    assert await until_through("step", lambda: Server.__call__(server)) == "answer"


async def test_the_waits_grow_and_stay_bounded_however_long_the_outage(waits):
    # 5,000 attempts are almost three hours; 2 to the power of their number is no float any more.
    assert await until_through("step", Server(5000)) == "answer"
    assert all(patience.WAIT_S_MIN <= wait <= patience.WAIT_S_MAX for wait in waits)
    assert waits[0] <= 2 * patience.WAIT_S_MIN
    assert waits[5] > waits[0]
    assert set(waits[10:]) == {patience.WAIT_S_MAX}


async def test_who_is_to_stop_gives_up_after_the_next_failure(waits):
    server, seen = Server(100), []
    with pytest.raises(TransientError, match=r"^failure 2$"):
        await until_through("step", server, on_failure=seen.append, give_up=lambda: len(seen) == 3)
    assert server.calls == 3
    assert seen == server.failures[:3]
    assert len(waits) == 2


@pytest.mark.parametrize("error", [ConfigurationError("wrong"), ValueError("a bug"), OSError("not translated")])
async def test_nothing_else_is_tried_again(error):
    seen = []

    async def call():
        raise error

    with pytest.raises(type(error)) as caught:
        await until_through("step", call, on_failure=seen.append)
    assert caught.value is error
    assert seen == []


async def test_a_long_outage_is_told_in_few_lines(monkeypatch):
    lines = []

    class Log:
        def warning(self, event, **fields):
            lines.append((event, fields["step"], fields["attempt"]))

    monkeypatch.setattr(patience, "log", Log())
    await until_through("kafka", Server(1000))
    assert [attempt for _, _, attempt in lines][:6] == [1, 3, 10, 30, 100, 200]
    assert len(lines) == 14
    assert {line[:2] for line in lines} == {("step_postponed", "kafka")}
