"""
The checker catches each deliberately broken variant (tests/chaos/broken.py), and nothing in the code as it is.

Each scenario brings its services to one moment at which the mistake counts, with a failpoint or with SIGKILL.
"""

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.chaos.broken import BrokenProcess
from tests.chaos.checker import Offer, Verdict, check
from tests.chaos.fleet import Fleet
from tests.chaos.gather import Tail, gather, unsettled
from tests.chaos.load import Book
from tests.processes import eventually
from tests.relevo import address

pytestmark = pytest.mark.timeout(180)

SETTLED_S_MAX = 60.0
# Nothing has moved for so long and nobody has a record in hand: nothing will. In ingest, the sweep comes after 10 s.
QUIET_S = 3.0
OUTBOX_QUIET_S = 15.0


class Arena:
    """A fleet that is used by one scenario after the other, and what the present one has offered."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.tail = Tail(fleet.kafka_bootstrap)
        self.tail.start()
        self.book = Book()
        self._before: set[str] = set()

    def close(self) -> None:
        self.tail.stop()
        self.fleet.down()

    def start(self, **variants: tuple[str, str]) -> None:
        """Have these services run, each with (variants, failpoint); the others as they are. Forget what was before."""
        self._before |= self.book.offered.keys()
        self.book = Book()
        for name, service in self.fleet.services.items():
            broken, failpoint = variants.get(name, ("", ""))
            like = service.process
            plain = not broken and not failpoint and not isinstance(like, BrokenProcess)
            if plain and like.alive:
                continue
            service.kill()
            settings = {"RELEVO_FAILPOINT": failpoint}
            service.process = BrokenProcess(broken, like, **settings)
            if failpoint:
                service.spawn()  # it may die before it is ready
            else:
                service.start()

    def again(self, name: str) -> None:
        """Start a service that has died, with its variant and without its failpoint."""
        service = self.fleet.services[name]
        eventually(lambda: not service.process.alive, 30)
        service.process.environment["RELEVO_FAILPOINT"] = ""
        service.start()

    def kill_and_start(self, name: str) -> None:
        self.fleet.services[name].kill()
        self.again(name)

    def requests(self, count: int, scenario: str = "") -> list[dict]:
        made = [{"id": str(uuid4()), "to": address(scenario), "subject": "s", "body": "b"} for _ in range(count)]
        self.book.offered.update({each["id"]: Offer() for each in made})
        return made

    def produce(self, requests: list[dict]) -> None:
        """Produce one record, acknowledged."""
        self.fleet.relevo.produce(requests)
        self.book.acknowledged.update(each["id"] for each in requests)

    def post(self, request: dict) -> None:
        """Offer over HTTP; ingest may die under it."""
        try:
            status, _, _ = self.fleet.relevo.post("/api/notify/", request)
        except OSError:
            return
        if status == 202:
            self.book.acknowledged.add(request["id"])

    def ended(self, requests: list[dict]) -> bool:
        return all(each["id"] in self.tail.ended for each in requests)

    def reckon(self, quiet_s: float) -> Verdict:
        """Wait until all is settled, or nothing has moved for *quiet_s*; then hold the facts against each other."""
        deadline, last, since = time.monotonic() + SETTLED_S_MAX, "", time.monotonic()
        while time.monotonic() < deadline:
            left = unsettled(
                self.fleet.postgres_dsn, self.fleet.kafka_bootstrap, self.book, self.tail.ended, without=self._before
            )
            if not left:
                break
            if left != last or "uncommitted" in left:
                last, since = left, time.monotonic()
            elif time.monotonic() - since > quiet_s:
                break
            time.sleep(0.2)
        facts = gather(
            bootstrap=self.fleet.kafka_bootstrap,
            dsn=self.fleet.postgres_dsn,
            url=self.fleet.relevo.url,
            mail_folder=self.fleet.mailbox.home / "mails",
            book=self.book,
            without=self._before,
        )
        return check(facts)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    fleet = Fleet(tmp_path_factory.mktemp("broken"), senders=1, RELEVO_LEASE_S="3")
    try:
        fleet.prepare()
        fleet.up()
        running = Arena(fleet)
    except BaseException:
        fleet.down()
        raise
    yield running
    running.close()


# What stays open is found again by the reconciler, and the variants of the services before it would be mended.
UNMENDED = {"sender-1": ("no_reconciler", "")}


def death_after_the_claim_in_redis(arena: Arena, variant: str) -> None:
    arena.start(**(UNMENDED if variant else {}), pipeline=(variant, "pipeline.after_claim:kill"))
    for _ in range(5):
        arena.produce(arena.requests(40))
    arena.again("pipeline")


def death_before_the_publication(arena: Arena, variant: str) -> None:
    arena.start(**(UNMENDED if variant else {}), ingest=(variant, "ingest.before_publish:kill"))
    arena.fleet.services["ingest"].wait_ready()
    for request in arena.requests(5):
        arena.post(request)
    arena.again("ingest")


def death_with_slow_ones_below(arena: Arena, variant: str) -> None:
    arena.start(**{"sender-1": (f"{variant},no_reconciler" if variant else "", "")})
    slow, quick = arena.requests(10, "slowrcpt6"), arena.requests(100)
    arena.produce(slow + quick)
    eventually(lambda: arena.ended(quick), 30)
    time.sleep(1.5)  # so that what can be committed is
    arena.kill_and_start("sender-1")


def death_with_a_batch_in_hand(arena: Arena, variant: str) -> None:
    arena.start(**(UNMENDED if variant else {}), pipeline=(f"slow_dedupe,{variant}", ""))
    for _ in range(5):
        arena.produce(arena.requests(40))
    time.sleep(2.5)  # longer than from one commit to the next, shorter than the batch takes
    arena.kill_and_start("pipeline")


def death_after_the_relays_answer(arena: Arena, variant: str) -> None:
    arena.start(**{"sender-1": (variant, "sender.after_250:kill:20")})
    arena.produce(arena.requests(100))
    arena.again("sender-1")


def silence_after_the_dot(arena: Arena, variant: str) -> None:
    arena.start(**{"sender-1": (variant, "")})
    arena.produce(arena.requests(20, "dropdotx1") + arena.requests(50))


SCENARIOS = {
    "drop_on_claim": (death_after_the_claim_in_redis, {"lost", "untold"}),
    "mark_early": (death_before_the_publication, {"stuck"}),
    "commit_highest": (death_with_slow_ones_below, {"stuck"}),
    "complete_first": (death_with_slow_ones_below, {"stuck"}),
    "acknowledge_first": (death_with_a_batch_in_hand, {"lost", "untold"}),
    "no_claim": (death_after_the_relays_answer, {"duplicated"}),
    "retry_doubt": (silence_after_the_dot, {"duplicated"}),
}


@pytest.mark.parametrize("variant", SCENARIOS)
def test_the_checker_catches(arena: Arena, variant: str) -> None:
    scenario, violations = SCENARIOS[variant]
    scenario(arena, variant)
    verdict = arena.reckon(OUTBOX_QUIET_S if scenario is death_before_the_publication else QUIET_S)
    assert violations <= verdict.violations.keys(), verdict.line()


@pytest.mark.parametrize(
    "scenario", dict.fromkeys(scenario for scenario, _ in SCENARIOS.values()), ids=lambda each: each.__name__
)
def test_the_same_costs_the_code_as_it_is_nothing(arena: Arena, scenario) -> None:
    scenario(arena, "")
    verdict = arena.reckon(SETTLED_S_MAX)
    assert not verdict.violations, (verdict.line(), verdict.violations)
