"""Redis or Valkey: does it answer, does it keep what it was told."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.cli.checks.finding import ANSWER_S_MAX, Finding, Report, info, ok, problem
from infra.cli.where import Place, without_password
from infra.redis import open_redis

_SETTING = "RELEVO_REDIS_URL"
_FULL = 0.9


def check_redis(place: Place, report: Report) -> None:
    """Look at Redis."""
    asyncio.run(_check(place, report))


async def _check(place: Place, report: Report) -> None:
    url = place.settings.redis_url
    where = without_password(url)
    try:
        redis = open_redis(url, name="relevo-doctor", timeout_s=ANSWER_S_MAX)
    except ValueError:
        report(problem("redis", f"{_SETTING} cannot be read", "It must look like redis://host:6379/0."))
        return
    try:
        # INFO alone: services that somebody else runs often allow no CONFIG.
        facts = await redis.info()
        facts = {**facts, "save": await _snapshots(redis)}
    except (RedisError, OSError, TimeoutError) as error:
        report(_unreachable(place, where, error))
        return
    finally:
        await redis.aclose()
    report(ok("redis", f"{_product(facts)} answers at {where}"))
    for finding in judge_redis(facts):
        report(finding)


async def _snapshots(redis: Any) -> str | None:
    try:
        found: dict[bytes, bytes] = await redis.config_get("save")
    except RedisError:
        return None
    return next((value if isinstance(value, str) else value.decode() for value in found.values()), "")


def judge_redis(facts: Mapping[str, Any]) -> Iterator[Finding]:
    """
    Judge what INFO says, and under `save` what CONFIG GET says of snapshots; None when that is not allowed.

    The table must forget nothing before its time: what is lost costs copies in a topic, never a second mail.
    """
    policy = facts.get("maxmemory_policy")
    if policy == "noeviction":
        yield ok("redis memory", "maxmemory-policy is noeviction")
    else:
        yield problem(
            "redis memory",
            f"maxmemory-policy is {policy}: when it is full, it forgets which ids were seen",
            "Set maxmemory-policy to noeviction.",
        )
    used, limit = int(facts.get("used_memory") or 0), int(facts.get("maxmemory") or 0)
    if limit and used > _FULL * limit:
        detail = f"{used // 2**20} of {limit // 2**20} MiB are used; when it is full, the pipeline waits"
        yield problem("redis memory", detail, "Raise maxmemory, or lower RELEVO_DEDUPE_WINDOW_S.")
    if facts.get("role") == "slave":
        yield problem("redis role", "it is a replica and takes no writes", f"Let {_SETTING} name the primary.")
    yield _judge_persistence(facts)


def _judge_persistence(facts: Mapping[str, Any]) -> Finding:
    check = "redis persistence"
    if facts.get("aof_enabled") and facts.get("aof_last_write_status") != "ok":
        return problem(check, "it cannot write its append-only file", "Look for a full disk, and into its log.")
    if facts.get("aof_enabled"):
        return ok(check, "append-only file is on")
    if facts.get("save") is None:
        return info(check, "no append-only file; whether it makes snapshots cannot be seen")
    if not facts["save"]:
        return problem(check, "it keeps nothing: a restart forgets which ids were seen", "Set appendonly to yes.")
    if facts.get("rdb_last_bgsave_status") != "ok":
        return problem(check, "its last snapshot failed", "Look for a full disk, and into its log.")
    return info(check, "snapshots only: a crash forgets the ids seen since the last one; appendonly yes keeps them")


def _product(facts: Mapping[str, Any]) -> str:
    name = str(facts.get("server_name") or "redis").capitalize()
    return f"{name} {facts.get(f'{name.lower()}_version') or facts.get('redis_version')}"


def _unreachable(place: Place, where: str, error: Exception) -> Finding:
    name = f"{where} ({place.origin(_SETTING)})"
    match error:
        case AuthenticationError():
            return problem("redis", f"{name} refuses the login", f"Correct user and password in {_SETTING}.")
        case RedisTimeoutError() | TimeoutError():
            return problem(
                "redis", f"{name} does not answer within {ANSWER_S_MAX} s; it may hang", place.remedy(_SETTING)
            )
    return problem("redis", f"{name} cannot be reached: {error or type(error).__name__}", place.remedy(_SETTING))
