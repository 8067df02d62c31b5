"""
The Redis-backed table of the Faust app: which ids were seen, and how far they came.

An entry lives for the window and is one of two things:

    claimed | fingerprint | coordinates     somebody is forwarding it, or died while at it
    done    | fingerprint                   the broker acknowledged its forward

Dropping is the only act that cannot be taken back, so only `done` drops. Faust's own tables are synchronous, write a
changelog of their own and know one value per key without a condition: the wrong tool for this.

The table is an optimisation. Emptied, it costs copies in a topic; the ledger sees to it that they cost no mail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from infra.redis import TRANSIENT, open_redis
from schemas.errors import TransientError

if TYPE_CHECKING:
    import faust
    from redis.asyncio import Redis

# Quick enough that a frozen Redis is noticed before anyone waits long, slow enough for a fork of a large one.
ANSWER_S_MAX = 2.0

_FINGERPRINT_BYTES = 8  # of the 16: enough to tell a mistake from a repeat; the ledger compares all of them


class Answer(Enum):
    """What the table says about one item. The names are the design's; the numbers are the script's."""

    NEW = 0  # first sight
    REPLAY = 1  # claimed by this very record: we crashed between claim and commit
    SUSPECT = 2  # claimed by another record, whose claimer may have died
    DUPLICATE = 3  # its forward was acknowledged: the only answer that drops
    CONFLICT = 4  # the same id for other content


@dataclass(frozen=True, slots=True)
class Claim:
    """An item that asks to be forwarded: its id, its content's fingerprint, where it stands (`Source.coordinates`)."""

    id: UUID
    fingerprint: bytes
    coordinates: str


# One atomic call for a whole batch. Within it the items are taken in order, so of two equal ids in one batch the
# second finds the claim of the first.
#   KEYS[i]  the entry's key        ARGV[1]  window in milliseconds
#   ARGV[2i] fingerprint            ARGV[2i+1] coordinates
_CLAIM = """
local answers = {}
for i, key in ipairs(KEYS) do
  local fingerprint, coordinates = ARGV[2 * i], ARGV[2 * i + 1]
  local entry = redis.call('GET', key)
  if not entry then
    redis.call('SET', key, 'C' .. fingerprint .. coordinates, 'PX', ARGV[1])
    answers[i] = 0
  elseif string.sub(entry, 2, 9) ~= fingerprint then
    answers[i] = 4
  elseif string.sub(entry, 1, 1) == 'D' then
    answers[i] = 3
  elseif string.sub(entry, 10) == coordinates then
    answers[i] = 1
  else
    answers[i] = 2
  end
end
return answers
"""

# An entry that is gone (the table was emptied in between) is written anew: the forward did happen. One that holds
# another fingerprint is left alone: it is not ours.
#   KEYS[i], ARGV[1] as above       ARGV[i+1] fingerprint
_COMPLETE = """
for i, key in ipairs(KEYS) do
  local entry = redis.call('GET', key)
  if not entry or string.sub(entry, 2, 9) == ARGV[i + 1] then
    redis.call('SET', key, 'D' .. ARGV[i + 1], 'PX', ARGV[1])
  end
end
return #KEYS
"""


class RedisTable:
    """
    A table beside a Faust app, kept in Redis and shared by every worker of the app.

    Opened before the app starts and closed after it has stopped: what Faust starts by itself, it starts after the
    agents.

    Args:
        app: its id is the first part of every key, so that two apps may share one Redis.
        name: the second part.
        window_s: how long an id is remembered, from its last change.
        url: address of the Redis or Valkey.
    """

    def __init__(self, app: "faust.App", name: str, *, window_s: int, url: str) -> None:
        self.name = name
        self._prefix = f"{app.conf.id}:{name}:".encode()
        self._window_ms = window_s * 1000
        self._url = url
        self._redis: Redis | None = None

    async def open(self) -> None:
        """
        Connect.

        Raises:
            TransientError: Redis does not answer.
        """
        self._redis = open_redis(self._url, name=f"relevo-{self.name}", timeout_s=ANSWER_S_MAX)
        self._claim = self._redis.register_script(_CLAIM)
        self._complete = self._redis.register_script(_COMPLETE)
        await self.ping()

    async def close(self) -> None:
        """Disconnect. The entries stay."""
        if self._redis is not None:
            await self._redis.aclose()

    async def ping(self) -> None:
        """
        Return when Redis answers.

        Raises:
            TransientError: it does not.
        """
        try:
            await self._client.ping()
        except TRANSIENT as error:
            raise _away(error) from error

    async def claim(self, claims: Sequence[Claim]) -> list[Answer]:
        """
        Claim each item for its coordinates, in order, in one atomic step. Repeatable: a claim finds itself (REPLAY).

        Returns:
            One answer for each claim. Empty for no claims.
        Raises:
            TransientError: no answer came; the claims may have been written or not.
        """
        if not claims:
            return []
        arguments: list[bytes | str | int] = [self._window_ms]
        for claim in claims:
            arguments += (claim.fingerprint[:_FINGERPRINT_BYTES], claim.coordinates)
        try:
            answers = await self._claim(keys=[self._key(claim.id) for claim in claims], args=arguments)
        except TRANSIENT as error:
            raise _away(error) from error
        return [Answer(number) for number in answers]

    async def complete(self, claims: Sequence[Claim]) -> None:
        """
        Mark each item `done`. Only for those whose forward the broker has acknowledged. Repeatable.

        Raises:
            TransientError: no answer came; the marks may have been written or not.
        """
        if not claims:
            return
        arguments: list[bytes | int] = [self._window_ms]
        arguments += (claim.fingerprint[:_FINGERPRINT_BYTES] for claim in claims)
        try:
            await self._complete(keys=[self._key(claim.id) for claim in claims], args=arguments)
        except TRANSIENT as error:
            raise _away(error) from error

    @property
    def _client(self) -> "Redis":
        assert self._redis is not None, "the table is opened before the app starts"
        return self._redis

    def _key(self, notification_id: UUID) -> bytes:
        return self._prefix + notification_id.bytes


def _away(error: BaseException) -> TransientError:
    # A Redis that is full (OOM under noeviction), read-only or loading is away for us, too: nothing was claimed.
    return TransientError(f"Redis: {type(error).__name__}")
