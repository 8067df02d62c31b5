"""Growth: what a notification costs when 10,000 ids are stored, and when 1,000,000 are; and how much each takes up."""

from collections import Counter
from pathlib import Path
from typing import Any

from redis import Redis

from tests.bench.parts import BATCH, Parts
from tests.bench.sides import RelevoSide, query

_TABLES = """
SELECT relname AS name, pg_table_size(oid) AS bytes FROM pg_class
WHERE relname IN ('notifications', 'contents', 'events')
"""

RATIO_MAX = 1.25

_INDEXES = """
SELECT indexrelname AS index, pg_relation_size(indexrelid) AS bytes FROM pg_stat_user_indexes
WHERE relname IN ('notifications', 'contents', 'events') ORDER BY 1
"""


def measure(parts: Parts, side: RelevoSide, marks: tuple[int, ...], sample: int, *, rounds: int) -> dict[str, Any]:
    """Fill up to each of *marks*, then drain *sample* notifications and see what each cost."""
    found: dict[str, Any] = {"marks": {}}
    client = Redis.from_url(side.ground.servers.redis_url)
    empty = client.info("memory")["used_memory"]
    for mark in marks:
        stored = query(side.ground.servers.postgres_dsn, "SELECT count(*) FROM notifications")[0][0]
        if mark > stored:
            parts.ground.load(
                shape=side.shape,
                port=side.port,
                key=side.key,
                path=side.batch_path,
                batch=BATCH,
                connections=4,
                seconds=3_000.0,
                count=mark - stored,
                outstanding_max=20_000,
            )
            parts.ground.sink.wait_for(mark - stored, 3_000)
            side.settle(600)
        query(side.ground.servers.postgres_dsn, "VACUUM ANALYZE")
        wal, logs = _wal_bytes(side), _log_bytes(side)
        turns = [parts.drain(side, sample) for _ in range(rounds)]
        keys = client.dbsize()
        stored = query(side.ground.servers.postgres_dsn, "SELECT count(*) FROM notifications")[0][0]
        found["marks"][str(mark)] = {
            "cpu_us": sorted(turn.cpu_us or 0.0 for turn in turns),
            "parts_us": {name: 1e6 * spent / turns[-1].cost_per for name, spent in turns[-1].cost.cpu_s.items()},
            "problems": [problem for turn in turns for problem in turn.problems],
            "redis_bytes_per_id": (client.info("memory")["used_memory"] - empty) / max(1, keys),
            "stored": stored,
            "wal_bytes_each": (_wal_bytes(side) - wal) / (sample * rounds),
            "log_bytes_each": {
                name: (size - logs[name]) / (sample * rounds) for name, size in _log_bytes(side).items()
            },
            "tables": {row["name"]: row["bytes"] for row in query(side.ground.servers.postgres_dsn, _TABLES)},
            "indexes": {row["index"]: row["bytes"] for row in query(side.ground.servers.postgres_dsn, _INDEXES)},
        }
    first, last = (found["marks"][str(mark)]["cpu_us"] for mark in (marks[0], marks[-1]))
    found["ratio"] = last[len(last) // 2] / first[len(first) // 2]
    client.close()
    return found


def _wal_bytes(side: RelevoSide) -> int:
    return int(query(side.ground.servers.postgres_dsn, "SELECT pg_current_wal_lsn() - '0/0'")[0][0])


def _log_bytes(side: RelevoSide) -> Counter[str]:
    """Return what the segments of each topic take up on the broker's disk."""
    found: Counter[str] = Counter()
    for segment in Path(side.ground.home).glob("servers/**/notifications.*-*/*.log"):
        found[segment.parent.name.rpartition("-")[0]] += segment.stat().st_size
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures for people."""
    made = []
    for mark, each in found["marks"].items():
        middle = each["cpu_us"][len(each["cpu_us"]) // 2]
        said = "  NOT COUNTED: " + "; ".join(each["problems"]) if each["problems"] else ""
        made.append(
            f"{int(mark):>9,} ids: {middle:,.0f} us CPU each, {each['redis_bytes_per_id']:.0f} bytes of Redis for each "
            f"in the window, {sum(each['indexes'].values()) / 2**20:,.1f} MiB of indexes{said}"
        )
        made.append("    " + ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in each["indexes"].items()))
        tables = ", ".join(f"{name} {size / each['stored']:,.0f}" for name, size in each["tables"].items())
        logs = ", ".join(f"{name.rpartition('.')[2]} {size:,.0f}" for name, size in each["log_bytes_each"].items())
        indexes = sum(each["indexes"].values()) / each["stored"]
        wal = f"write-ahead log {each['wal_bytes_each']:,.0f}"
        made.append(f"    bytes for each: tables {tables}; indexes {indexes:,.0f}; {wal}; topics {logs}")
    return [*made, f"CPU per notification, last against first: {found['ratio']:.3g} (target <= {RATIO_MAX})"]
