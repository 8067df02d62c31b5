"""A Redis that takes nothing more, or holds something foreign, is a Redis that is away: nothing is dropped for it."""

from uuid import uuid4

import pytest
from redis import Redis

from infra.stack import servers as local_servers
from pipeline.table import Answer, Claim, RedisTable
from schemas.errors import TransientError

PRINT = b"1" * 16


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory):
    """A Valkey that nobody else uses: it is filled here."""
    with local_servers.start(tmp_path_factory.mktemp("table"), ["redis"]) as running:
        yield running.redis_url


@pytest.fixture
async def table(own_redis):
    opened = RedisTable(f"test-{uuid4()}", window_s=60, url=own_redis)
    await opened.open()
    yield opened
    await opened.close()


def claims(count):
    return [Claim(uuid4(), PRINT, f"0:7:{index}") for index in range(count)]


async def test_a_full_redis_forgets_no_id_and_claims_none_until_it_has_room(own_redis, table):
    known = claims(100)
    await table.claim(known)
    await table.complete(known)
    with Redis.from_url(own_redis) as redis:
        redis.config_set("maxmemory", 1)
        with pytest.raises(TransientError):
            await table.claim(claims(1))
        with pytest.raises(TransientError):
            await table.complete(known)
        redis.config_set("maxmemory", 0)
    assert set(await table.claim(known)) == {Answer.DUPLICATE}
    assert await table.claim(claims(1)) == [Answer.NEW]


async def test_something_foreign_under_one_key_drops_nobody(own_redis, table):
    batch = claims(3)
    with Redis.from_url(own_redis) as redis:
        redis.lpush(table._keys(batch)[1], "not ours")
        with pytest.raises(TransientError):
            await table.claim(batch)
        redis.delete(table._keys(batch)[1])
    # The first was claimed before it broke: by this very record, so it is forwarded.
    assert await table.claim(batch) == [Answer.REPLAY, Answer.NEW, Answer.NEW]
