"""One suite over the Redis-backed table and the fake that unit tests use: they must not drift apart."""

import asyncio
from uuid import uuid4

import pytest

from pipeline.table import Answer, Claim, RedisTable
from schemas.errors import ConfigurationError, TransientError
from tests.fakes import FakeTable

ONE, OTHER = b"1" * 16, b"2" * 16


@pytest.fixture(params=["fake", "real"])
async def table(request):
    if request.param == "fake":
        yield FakeTable()
        return
    servers = request.getfixturevalue("servers")
    real = RedisTable(f"test-{uuid4()}", window_s=60, url=servers.redis_url)
    await real.open()
    yield real
    await real.close()


async def test_answers_follow_the_state_machine(table):
    first = Claim(uuid4(), ONE, "3:912:0")
    elsewhere = Claim(first.id, ONE, "4:1:0")
    assert await table.claim([first]) == [Answer.NEW]
    assert await table.claim([first]) == [Answer.REPLAY]
    assert await table.claim([elsewhere]) == [Answer.SUSPECT]
    assert await table.claim([Claim(first.id, OTHER, "3:912:0")]) == [Answer.CONFLICT]
    await table.complete([first])
    assert await table.claim([first, elsewhere]) == [Answer.DUPLICATE, Answer.DUPLICATE]
    assert await table.claim([Claim(first.id, OTHER, "3:912:0")]) == [Answer.CONFLICT]


async def test_a_batch_is_judged_in_order(table):
    same = uuid4()
    claims = [
        Claim(same, ONE, "0:1:0"),
        Claim(same, ONE, "0:1:1"),
        Claim(uuid4(), ONE, "0:1:2"),
        Claim(same, OTHER, "0:1:3"),
    ]
    assert await table.claim(claims) == [Answer.NEW, Answer.SUSPECT, Answer.NEW, Answer.CONFLICT]


async def test_nothing_asked_nothing_answered(table):
    assert await table.claim([]) == []
    await table.complete([])


async def test_completing_what_was_forgotten_makes_it_known(table):
    claim = Claim(uuid4(), ONE, "0:1:0")
    await table.complete([claim])
    assert await table.claim([claim]) == [Answer.DUPLICATE]


async def test_completing_leaves_another_content_alone(table):
    claim = Claim(uuid4(), ONE, "0:1:0")
    await table.claim([claim])
    await table.complete([Claim(claim.id, OTHER, "9:9:9")])
    assert await table.claim([claim]) == [Answer.REPLAY]


async def test_five_hundred_at_once(table):
    claims = [Claim(uuid4(), ONE, f"0:7:{index}") for index in range(500)]
    assert set(await table.claim(claims)) == {Answer.NEW}
    await table.complete(claims)
    assert set(await table.claim(claims)) == {Answer.DUPLICATE}


async def test_nobody_there_is_a_transient_error():
    nobody = RedisTable("test", window_s=60, url="redis://127.0.0.1:1/0")
    with pytest.raises(TransientError):
        await nobody.open()
    await nobody.close()


async def test_a_redis_that_is_too_old_is_named():
    async def old(reader, writer):
        # As Redis 6 would, whatever else it is asked.
        while line := await reader.readline():
            if line.startswith((b"PING", b"CLIENT", b"HELLO", b"SELECT")):
                writer.write(b"+PONG\r\n" if line.startswith(b"PING") else b"+OK\r\n")
            elif line == b"SET\r\n":
                writer.write(b"-ERR syntax error\r\n")
        writer.close()

    async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        table = RedisTable("test", window_s=60, url=f"redis://127.0.0.1:{port}/0?protocol=2")
        with pytest.raises(ConfigurationError, match="too old"):
            await table.open()
        await table.close()


async def test_an_entry_is_small_and_leaves_with_the_window(servers):
    table = RedisTable(f"test-{uuid4()}", window_s=60, url=servers.redis_url)
    await table.open()
    claim = Claim(uuid4(), ONE, "3:912345678:499")
    await table.claim([claim])
    await table.complete([claim])
    [key] = table._keys([claim])
    assert 0 < await table._client.pttl(key) <= 60_000
    # Of the key name, the prefix is the same for all; what grows with the number of ids is bounded.
    assert await table._client.memory_usage(key) <= 150
    await table.close()
