"""The faults: what is done to the fleet, drawn from a seed, one round after the other."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.fleet import Fleet, Member, side_by_side

PAUSE_S_MAX = 12.0

# How the mailbox treats everybody for a while. The last one is a refusal of us: the channel stops, and asks again.
MOODS: tuple[dict[str, object], ...] = (
    {"scenario": "451x100"},
    {"scenario": "dot451x100"},
    {"scenario": "dropdatax50"},
    {"scenario": "dropdotx10"},
    {"scenario": "slowdot2x60"},
    {"scenario": "slowrcpt2x60"},
    {"sender": "451x30"},
    {"accepting": False},
    {"sender": "550x2"},
)
IN_ORDER: dict[str, object] = {"scenario": None, "sender": None, "accepting": True}


@dataclass
class Fault:
    """One fault as it happened. kills: SIGKILLs in it. recovery_s: from its end to a new notification's end."""

    what: str
    kills: int = 0
    pauses: int = 0
    restarts: int = 0
    at_s: float = 0.0
    lasted_s: float = 0.0
    recovery_s: float | None = None
    trouble: list[str] = field(default_factory=list)


class Faults:
    """Draws faults and does them."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._rng = random.Random(f"{seed} faults")

    def next(self) -> Fault:
        """Do the next fault and heal it."""
        kinds: dict[Callable[[], Fault], float] = {
            self._kill_one: 22,
            self._kill_several: 16,
            self._kill_again_and_again: 20,
            self._pause: 14,
            self._restart: 8,
            self._flush: 6,
            self._kill_and_flush: 6,
            self._mood: 8,
        }
        kind = self._rng.choices(list(kinds), list(kinds.values()))[0]
        begun = time.monotonic()
        fault = kind()
        fault.lasted_s = round(time.monotonic() - begun, 2)
        return fault

    def _names(self, count: int) -> list[str]:
        return self._rng.sample(sorted(self._fleet.members), count)

    def _members(self, names: list[str]) -> list[Member]:
        return [self._fleet.members[name] for name in names]

    def _kill_one(self) -> Fault:
        name = self._names(1)[0]
        down_s = self._rng.uniform(0, 6)
        self._fleet.members[name].kill()
        time.sleep(down_s)
        self._fleet.up([name])
        return Fault(f"kill {name} for {down_s:.1f} s", kills=1)

    def _kill_several(self) -> Fault:
        names = self._names(self._rng.randint(2, 4))
        down_s = self._rng.uniform(0, 4)
        side_by_side("kill", self._members(names))
        time.sleep(down_s)
        self._fleet.up(names)
        return Fault(f"kill {', '.join(names)} for {down_s:.1f} s", kills=len(names))

    def _kill_again_and_again(self) -> Fault:
        """Services and the mailbox: at any moment of their start, too."""
        name = self._rng.choice([*self._fleet.services, "mailbox"])
        member, kills = self._fleet.members[name], self._rng.randint(3, 5)
        for _ in range(kills):
            member.kill()
            member.spawn()
            time.sleep(self._rng.uniform(0.3, 4.0))
        self._fleet.up([name])
        return Fault(f"kill {name} {kills} times", kills=kills)

    def _pause(self) -> Fault:
        names = self._names(self._rng.choice((1, 1, 1, 2)))
        members, for_s = self._members(names), self._rng.uniform(1, PAUSE_S_MAX)
        try:
            side_by_side("pause", members)
            time.sleep(for_s)
        finally:
            side_by_side("resume", members)
        self._fleet.up(names)
        return Fault(f"pause {', '.join(names)} for {for_s:.1f} s", pauses=len(names))

    def _restart(self) -> Fault:
        names = self._names(self._rng.choice((1, 1, 2)))
        trouble: list[str] = []

        def terminate(member: Member) -> None:
            try:
                member.terminate()
            except AssertionError as error:
                trouble.append(str(error)[:500])

        side_by_side(terminate, self._members(names))
        self._fleet.up(names)
        return Fault(f"restart {', '.join(names)}", restarts=len(names), trouble=trouble)

    def _flush(self) -> Fault:
        for _ in range(3):
            self._fleet.flush_redis()
            time.sleep(self._rng.uniform(0.1, 1.0))
        return Fault("FLUSHALL 3 times")

    def _kill_and_flush(self) -> Fault:
        names = [self._rng.choice(["pipeline", *(name for name in self._fleet.services if name.startswith("sender"))])]
        side_by_side("kill", self._members(names))
        self._fleet.flush_redis()
        self._fleet.up(names)
        return Fault(f"kill {names[0]} and FLUSHALL", kills=1)

    def _mood(self) -> Fault:
        mood, for_s = self._rng.choice(MOODS), self._rng.uniform(2, 6)
        try:
            self._fleet.scenario(**mood)
            time.sleep(for_s)
        finally:
            self._fleet.scenario(**IN_ORDER)
        return Fault(f"mailbox {' '.join(f'{name} {value}' for name, value in mood.items())} for {for_s:.1f} s")
