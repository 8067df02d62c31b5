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
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from redis.exceptions import ResponseError

from infra.redis import TRANSIENT, open_redis
from schemas.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
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


_ANSWERS = tuple(Answer)  # by number


class Claim(NamedTuple):
    """An item that asks to be forwarded: its id, its content's fingerprint, where it stands (`Source.coordinates`)."""

    id: UUID
    fingerprint: bytes
    coordinates: str


# One atomic call for a whole batch. Within it the items are taken in order, so of two equal ids in one batch the
# second finds the claim of the first. SET with NX and GET (Redis 7, any Valkey) writes only where there is nothing,
# and says what there is: one command for each item.
#   KEYS[i]    the entry's key        ARGV[1]  window in milliseconds
#   ARGV[i+1]  fingerprint and coordinates
_CLAIM = """
local call, sub, window = redis.call, string.sub, ARGV[1]
local answers = {}
for i, key in ipairs(KEYS) do
  local claim = ARGV[i + 1]
  local entry = call('SET', key, 'C' .. claim, 'NX', 'GET', 'PX', window)
  if not entry then
    answers[i] = 0
  elseif sub(entry, 2, 9) ~= sub(claim, 1, 8) then
    answers[i] = 4
  elseif sub(entry, 1, 1) == 'D' then
    answers[i] = 3
  elseif sub(entry, 2) == claim then
    answers[i] = 1
  else
    answers[i] = 2
  end
end
return answers
"""

# An entry that is gone (the table was emptied in between) is written anew: the forward did happen. One that holds
# another fingerprint is left alone, so it is put back: it is not ours, and nobody can look in between.
#   KEYS[i], ARGV[1] as above       ARGV[2]  all fingerprints, one after the other
_COMPLETE = """
local call, sub, window, fingerprints = redis.call, string.sub, ARGV[1], ARGV[2]
for i, key in ipairs(KEYS) do
  local fingerprint = sub(fingerprints, 8 * i - 7, 8 * i)
  local entry = call('SET', key, 'D' .. fingerprint, 'GET', 'PX', window)
  if entry and sub(entry, 2, 9) ~= fingerprint then
    call('SET', key, entry, 'PX', window)
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
        name: the first part of every key, and short: it takes up memory once for every id. Two apps that share one
            Redis give their tables different names.
        window_s: how long an id is remembered, from its last change.
        url: address of the Redis or Valkey.
    """

    def __init__(self, name: str, *, window_s: int, url: str) -> None:
        self.name = name
        self._prefix = f"{name}:".encode()
        self._window_ms = window_s * 1000
        self._url = url
        self._redis: Redis | None = None

    async def open(self) -> None:
        """
        Connect.

        Raises:
            TransientError: Redis does not answer.
            ConfigurationError: it is too old.
        """
        self._redis = open_redis(self._url, name=f"relevo-{self.name}", timeout_s=ANSWER_S_MAX)
        self._claim = self._redis.register_script(_CLAIM)
        self._complete = self._redis.register_script(_COMPLETE)
        await self.ping()
        await self._require_set_nx_get()

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

    async def _require_set_nx_get(self) -> None:
        try:
            await self._client.set(self._prefix, b"", nx=True, get=True, px=1)
        except ResponseError as error:
            # One that is full, or loads its data, says something else, and is waited for.
            if "syntax" in str(error):
                raise ConfigurationError("this Redis is too old: it must be Redis 7.0 or later, or Valkey") from error
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
        arguments: list[bytes | int] = [self._window_ms]
        arguments += [each.fingerprint[:_FINGERPRINT_BYTES] + each.coordinates.encode() for each in claims]
        try:
            answers = await self._claim(keys=self._keys(claims), args=arguments)
        except TRANSIENT as error:
            raise _away(error) from error
        return [_ANSWERS[number] for number in answers]

    async def complete(self, claims: Sequence[Claim]) -> None:
        """
        Mark each item `done`. Only for those whose forward the broker has acknowledged. Repeatable.

        Raises:
            TransientError: no answer came; the marks may have been written or not.
        """
        if not claims:
            return
        fingerprints = b"".join([each.fingerprint[:_FINGERPRINT_BYTES] for each in claims])
        try:
            await self._complete(keys=self._keys(claims), args=[self._window_ms, fingerprints])
        except TRANSIENT as error:
            raise _away(error) from error

    @property
    def _client(self) -> "Redis":
        assert self._redis is not None, "the table is opened before the app starts"
        return self._redis

    def _keys(self, claims: Sequence[Claim]) -> list[bytes]:
        prefix = self._prefix
        return [prefix + each.id.bytes for each in claims]


def _away(error: BaseException) -> TransientError:
    # A Redis that is full (OOM under noeviction), read-only or loading is away for us, too: nothing was claimed.
    return TransientError(f"Redis: {type(error).__name__}")
