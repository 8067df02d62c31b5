"""
The sender against a relay that is far away: what one connection carries, how many are opened, whether the caps hold.

The relay is the lean sink behind a proxy that delays each direction by half of the round-trip time.
"""

from bisect import bisect_left
from pathlib import Path
from typing import Any

from tests.bench.ground import Distance
from tests.bench.parts import Parts
from tests.bench.sides import RelevoSide

ROUND_TRIP_MS = 20.0
CONNECTIONS = (1, 10, 50)
RATE_PER_S = 100
# Of each turn, roughly. With several senders their coming and going must be the smaller part.
SECONDS, SECONDS_OF_SEVERAL = 5.0, 12.0
LEASE_S = 3  # one sender that joins others waits for a lease before its first turn, where there is a cap
SENDERS = (1, 2, 3)
# Only to choose how many mails make SECONDS: a transaction takes two round trips, or four without pipelining.
_TRIPS = {True: 2, False: 4}


def measure(parts: Parts, side: RelevoSide) -> list[dict[str, Any]]:
    """Return one row for each turn: how the relay was, what was allowed, and what came of it."""
    relay = Distance(side.ground.home, side.ground.sink.smtp_port, round_trip_ms=ROUND_TRIP_MS)
    try:
        rows = [
            _turn(parts, side, relay, connections=connections, pipelining=pipelining)
            for pipelining in (True, False)
            for connections in CONNECTIONS[: 3 if pipelining else 2]
        ]
        rows.append(_turn(parts, side, relay, connections=10, rate_per_s=RATE_PER_S))
        rows += [_turn(parts, side, relay, connections=10, senders=senders) for senders in SENDERS[1:]]
        rows.append(_turn(parts, side, relay, connections=10, senders=SENDERS[-1], rate_per_s=RATE_PER_S))
    finally:
        relay.stop()
        side.ground.sink.ask("offer", pipelining=True)
        side.staff(senders=1, pipelines=1)
    return rows


def _turn(
    parts: Parts,
    side: RelevoSide,
    relay: Distance,
    *,
    connections: int,
    pipelining: bool = True,
    senders: int = 1,
    rate_per_s: int = 0,
) -> dict[str, Any]:
    side.ground.sink.ask("offer", pipelining=pipelining)
    side.staff(
        senders=senders,
        pipelines=1,
        RELEVO_SMTP_URL=f"smtp://127.0.0.1:{relay.port}",
        RELEVO_SMTP_CONNECTIONS_MAX=str(connections),
        RELEVO_SMTP_RATE_PER_S=str(rate_per_s),
        RELEVO_LEASE_S=str(LEASE_S),
    )
    relay.ask("reset")
    expected_per_s = senders * connections * 1000 / ROUND_TRIP_MS / _TRIPS[pipelining]
    seconds = SECONDS_OF_SEVERAL if senders > 1 else SECONDS
    turn = parts.drain(side, max(100, int(seconds * min(expected_per_s, rate_per_s or 1000))))
    seen = relay.ask("count")
    moments = sorted(at for _, at in side.ground.sink.taken(Path(side.ground.home) / "taken"))
    rate = _steady_per_s(moments)
    return {
        "pipelining": pipelining,
        "senders": senders,
        "connections_max": connections,
        "rate_max_per_s": rate_per_s,
        "rate_per_s": rate,
        "per_connection_per_s": rate / max(1, seen["open_max"]),
        "opened": seen["opened"],
        "open_max": seen["open_max"],
        "most_in_a_second": most_in_a_second(moments),
        "cpu_us": turn.cpu_us,
        "problems": turn.problems,
    }


def _steady_per_s(moments_ns: list[int]) -> float:
    """Return the rate over the middle half: without joining the group, and without waiting for the last."""
    quarter = len(moments_ns) // 4
    begin, end = moments_ns[quarter], moments_ns[-quarter - 1]
    return (len(moments_ns) - 2 * quarter - 1) / max(1e-9, (end - begin) / 1e9)


def most_in_a_second(moments_ns: list[int]) -> int:
    """Return how many of *moments_ns*, which are sorted, lie in one second at most."""
    return max(
        (bisect_left(moments_ns, moment + 10**9, at) - at for at, moment in enumerate(moments_ns)),
        default=0,
    )


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table for people."""
    heads = ("senders", "connections", "pipelining", "cap", "mails/s", "per connection", "opened", "open at most")
    cells = [(*heads, "most in one second"), *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    said = "  NOT COUNTED: " + "; ".join(row["problems"]) if row["problems"] else ""
    return (
        str(row["senders"]),
        str(row["connections_max"]),
        "yes" if row["pipelining"] else "no",
        f"{row['rate_max_per_s']}/s" if row["rate_max_per_s"] else "-",
        f"{row['rate_per_s']:,.0f}",
        f"{row['per_connection_per_s']:.1f}",
        str(row["opened"]),
        str(row["open_max"]),
        f"{row['most_in_a_second']}{said}",
    )
