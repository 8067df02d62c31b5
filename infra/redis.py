"""Redis or Valkey: a client that says quickly when the server is away."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

TRANSIENT = (RedisError, OSError, TimeoutError)


def open_redis(url: str, *, name: str, timeout_s: float) -> Redis:
    """
    Return a client; it connects with its first command.

    Args:
        name: shown in CLIENT LIST.
        timeout_s: for a connection and for each answer. Whoever calls decides how to go on without one.
    """
    return Redis.from_url(
        url,
        client_name=name,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        health_check_interval=15,
        # One retry, at once: a connection that the server closed while idle is no outage.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        decode_responses=False,
    )
