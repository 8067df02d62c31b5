"""The simulator by both doors, while the relay is switched off: real events, marked, and never a mail."""

import contextlib
from uuid import uuid4

from schemas.addresses import SIMULATED, Scenario
from tests.processes import eventually

RETRIED = ["retrying"] * 3
STATES = {
    Scenario.OK: ["sent"],
    Scenario.RETRY_OK: ["retrying", "sent"],
    Scenario.TEMPFAIL: [*RETRIED, "failed"],
    Scenario.PERMFAIL: ["bounced"],
    Scenario.SLOW: ["sent"],
    Scenario.IN_DOUBT: ["in_doubt"],
    Scenario.SUPPRESSED: ["suppressed"],
}


@contextlib.contextmanager
def away(relevo, mailbox):
    """Switch the relay off; yields the id of a real notification that has to wait for it."""
    mailbox.kill()
    try:
        waiting = relevo.notify()
        eventually(lambda: "smtp" in relevo.sender.readiness()[1]["reasons"])
        yield waiting
    finally:
        mailbox.start()
    relevo.wait_for(waiting, "sent", 40)


def test_each_recipient_gives_its_outcome_by_both_doors_while_the_relay_is_away(relevo, mailbox):
    with away(relevo, mailbox) as waiting:
        wanted = accepted_by_both_doors(relevo)
        for identity, scenario in wanted.items():
            told = relevo.wait_for(identity, STATES[scenario][-1], 40)
            assert told["test"] is True
            assert [step["step"] for step in told["timeline"] if "attempt" in step] == STATES[scenario]
        assert relevo.status(waiting)["status"] == "queued", "a real one waits for the real relay"
    assert not wanted.keys() & mailbox.counts().keys()

    def results_by_id():
        found = {identity: [] for identity in wanted}
        for each in relevo.results():
            found.get(each["id"], []).append(each)
        assert {identity: [each["status"] for each in results] for identity, results in found.items()} == {
            identity: ["queued", *STATES[scenario]] for identity, scenario in wanted.items()
        }
        return found

    for results in eventually(results_by_id).values():
        assert all(each["test"] is True for each in results)
        assert [each["terminal"] for each in results] == [False] * (len(results) - 1) + [True]


def accepted_by_both_doors(relevo):
    """Return the scenario of each id."""
    wanted = {}
    for recipient, scenario in SIMULATED.items():
        wanted[relevo.notify(recipient)] = scenario
        by_kafka = str(uuid4())
        relevo.produce({"id": by_kafka, "to": recipient, "subject": "s", "body": "b"})
        wanted[by_kafka] = scenario
    return wanted


def test_a_recipient_that_the_simulator_does_not_know_is_refused_at_both_doors(relevo):
    request = {"id": str(uuid4()), "to": "sim+nope@simulator.invalid", "subject": "s", "body": "b"}
    status, problem, _ = relevo.post("/api/notify/", request)
    assert status == 422
    at = relevo.produce(request)
    [rejected] = eventually(lambda: relevo.rejections_at(*at))
    for errors in (problem["errors"], rejected["errors"]):
        [error] = errors
        assert (error["pointer"], error["code"]) == ("/to", "unknown_scenario")
        assert "sim+retry-ok@simulator.invalid" in error["detail"]
        assert "nope" not in error["detail"]


def test_what_is_real_says_so(relevo):
    identity = relevo.notify()
    assert relevo.wait_for(identity, "sent")["test"] is False
    sent = eventually(lambda: len(found := relevo.results(identity)) == 2 and found)
    assert [each["test"] for each in sent] == [False, False]
