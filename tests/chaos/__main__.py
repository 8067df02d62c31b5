"""
`python -m tests.chaos`: real processes, load by both doors, random faults by a seed, and then the reckoning.

Ends with 0 when every promise was kept, with 1 when one was not, with 2 when the run itself broke.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tests.chaos.checker import Facts, Verdict, check
from tests.chaos.faults import Fault, Faults
from tests.chaos.fleet import Fleet, interruptible
from tests.chaos.gather import Tail, gather, wait_until_settled
from tests.chaos.load import Book, Load

# So many accepted ones may be under way before the load waits: what a fault left behind must be through some day.
BEHIND_MAX = 1_000
# Then the next fault comes all the same; that the recovery is still awaited is noted.
PATIENCE_S = 15.0
RECOVERY_S_MAX = 120.0
SETTLED_S_MAX = 240.0


class Clock:
    """Since when this run runs, and a line for people with the time in front."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() - self.begun

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(self.now_s()), 60)
        sys.stdout.write(f"{minutes:02d}:{seconds:02d}  {text}\n")
        sys.stdout.flush()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.chaos", description="Nothing lost or sent twice, under fire.")
    parser.add_argument("--rounds", type=int, default=25, help="faults; about 12 seconds each (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of a run to have again (default: a new one)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="Kafka brokers (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=200, help="new notifications a second (default: %(default)s)")
    parser.add_argument("--report", type=Path, help="file for the report as JSON (default: below the temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the logs also of a run in which all is well")
    return parser.parse_args()


def main() -> int:
    given = options()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    clock = Clock()
    clock.say(f"seed {seed}, {given.rounds} rounds, {given.brokers} broker(s)")
    interruptible()
    home = Path(tempfile.mkdtemp(prefix="relevo-chaos-"))
    fleet = Fleet(home, brokers=given.brokers)
    try:
        run = Run(fleet, seed, clock, rate=given.rate)
        run.fight(given.rounds)
        facts = run.reckon()
    except KeyboardInterrupt:
        clock.say("interrupted")
        return 2
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        fleet.down()
        clock.say(f"everything has ended; the logs are in {home}")
    verdict = check(facts)
    report = run.report(verdict) | {"rounds": given.rounds, "brokers": given.brokers}
    file = given.report or home / "report.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tell(report, verdict, file)
    if not verdict.violations and not given.keep:
        # The mails and the data of the servers are large; what may be read again are the logs.
        for folder in ("mails", "servers"):
            shutil.rmtree(home / folder, ignore_errors=True)
    return 1 if verdict.violations else 0


def tell(report: dict, verdict: Verdict, file: Path) -> None:
    """Print what came of it."""
    lines = ["", verdict.line()]
    lines.append("  ".join(f"{name} {value}" for name, value in report["figures"].items()))
    lines.append("  ".join(f"{name} {value}" for name, value in report["faults_in_all"].items()))
    recovery = report["recovery_s"]
    lines.append(f"recovery in s: median {recovery['median']}, worst {recovery['worst']} ({recovery['worst_of']})")
    for kind, found in verdict.violations.items():
        lines.append(f"VIOLATION {kind}: {len(found)}, such as {', '.join(found[:5])}")
    lines += [f"trouble: {each}" for each in report["trouble"]]
    kept = "A PROMISE WAS BROKEN" if verdict.violations else "every promise was kept"
    lines.append(f"seed {report['seed']}: {kept}; report: {file}")
    sys.stdout.write("\n".join(lines) + "\n")


class Run:
    """One run: the fight, then the reckoning."""

    def __init__(self, fleet: Fleet, seed: int, clock: Clock, *, rate: int) -> None:
        self.fleet, self.seed, self.clock = fleet, seed, clock
        self.book = Book()
        self.faults: list[Fault] = []
        self.settled = False
        fleet.prepare()
        fleet.up()
        clock.say("everything runs")
        self.tail = Tail(fleet.kafka_bootstrap)
        self.tail.start()
        self.load = Load(
            http_port=fleet.relevo.http_port,
            bootstrap=fleet.kafka_bootstrap,
            seed=seed,
            rate=rate,
            book=self.book,
            behind=lambda: len(self.book.offered) - len(self.tail.ended) > BEHIND_MAX,
        )

    def fight(self, rounds: int) -> None:
        """Load and faults, one after the other."""
        self.load.start()
        time.sleep(3)
        faults = Faults(self.fleet, self.seed)
        with ThreadPoolExecutor(64) as probing:
            for number in range(1, rounds + 1):
                at_s = round(self.clock.now_s(), 1)
                fault = faults.next()
                fault.at_s = at_s
                self.faults.append(fault)
                awaited = threading.Event()
                probing.submit(self._recover, fault, awaited)
                until = time.monotonic() + PATIENCE_S
                while not awaited.wait(1.0) and time.monotonic() < until:
                    fault.trouble += self.fleet.revive()
                fault.trouble += self.fleet.revive()
                took_s = fault.recovery_s
                again = "not yet through again" if took_s is None else f"through after {took_s:.1f} s"
                self.clock.say(
                    f"[{number}/{rounds}] {fault.what}: {again}; "
                    f"{len(self.book.acknowledged):,} accepted, {len(self.tail.ended):,} ended"
                )
                for trouble in fault.trouble:
                    self.clock.say(f"  {trouble}")

    def reckon(self) -> Facts:
        """Heal everything, wait until all has settled, and gather the facts."""
        self.fleet.up()
        self.load.stop(90)
        self.clock.say("all healed, nothing new is offered")
        self.settled = wait_until_settled(
            self.fleet.postgres_dsn,
            self.fleet.kafka_bootstrap,
            self.book,
            self.tail,
            within_s=SETTLED_S_MAX,
            say=self.clock.say,
            end_hanging=self._restart_mailbox,
        )
        self.tail.stop()
        self.clock.say("gathering the facts")
        return gather(
            bootstrap=self.fleet.kafka_bootstrap,
            dsn=self.fleet.postgres_dsn,
            url=self.fleet.relevo.url,
            mail_folder=self.fleet.mailbox.home / "mails",
            book=self.book,
        )

    def report(self, verdict: Verdict) -> dict:
        """Return what is worth keeping of this run."""
        recovered = {fault.what: fault.recovery_s for fault in self.faults if fault.recovery_s is not None}
        worst = max(recovered, key=lambda what: recovered[what], default="none")
        return {
            "seed": self.seed,
            "kept": not verdict.violations,
            "line": verdict.line(),
            "violations": {kind: found[:50] for kind, found in verdict.violations.items()},
            "figures": verdict.figures | {f"by {door}": count for door, count in self.book.doors.items()},
            "faults_in_all": {
                "faults": len(self.faults),
                "kills": sum(fault.kills for fault in self.faults),
                "pauses": sum(fault.pauses for fault in self.faults),
                "restarts": sum(fault.restarts for fault in self.faults),
            },
            "recovery_s": {
                "median": round(median(recovered.values()), 1) if recovered else None,
                "worst": recovered.get(worst),
                "worst_of": worst,
                "never": [fault.what for fault in self.faults if fault.recovery_s is None],
            },
            "settled": self.settled,
            "took_s": round(self.clock.now_s()),
            "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
            "trouble": [each for fault in self.faults for each in fault.trouble],
            "faults": [asdict(fault) for fault in self.faults],
        }

    def _restart_mailbox(self) -> None:
        self.fleet.members["mailbox"].kill()
        self.fleet.members["mailbox"].start()

    def _recover(self, fault: Fault, awaited: threading.Event) -> None:
        begun = time.monotonic()
        probe = self.load.probe()
        while time.monotonic() - begun < RECOVERY_S_MAX:
            if probe in self.tail.ended:
                fault.recovery_s = round(time.monotonic() - begun, 2)
                break
            time.sleep(0.05)
        awaited.set()


if __name__ == "__main__":
    sys.exit(main())
