"""
The simulator: a relay that answers by the name of the recipient, and never opens a connection.

It stands in for the relay only. Claim, lease, retries, ledger and results are the real ones, so that whoever tests
against it sees what production will do. It remembers nothing: the number of the attempt, which the ledger knows, is
enough, and every scenario survives a restart.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from schemas.addresses import SIMULATED, Scenario
from sender.replies import Judgement, Phase, Verdict, judge_reply, judge_silence
from sender.transaction import Mail

# Longer than anything ordinary takes, shorter than a test's patience.
SLOW_S = 5.0

_TAKEN = judge_reply(Phase.DOT, 250, "2.0.0 simulated: taken")
_NOT_NOW = judge_reply(Phase.RCPT, 451, "4.7.1 simulated: refused for now")
_NEVER = judge_reply(Phase.RCPT, 550, "5.1.1 simulated: refused for good")
_NO_ANSWER = judge_silence(Phase.DOT, "connection_lost")
_NOT_WRITTEN_TO = Judgement(Verdict.SUPPRESSED, "suppressed")


@dataclass(frozen=True, slots=True)
class SimulatedRelay:
    """
    The relay that a simulated recipient has, for one attempt. See sender.deliver.RelayPort.

    attempt: its number, from 1.
    """

    attempt: int

    async def send(self, mail: Mail, before_message: Callable[[], Awaitable[bool]]) -> Judgement | None:
        """
        Answer as the recipient's scenario says, as sender.smtp.Relay.send would.

        Args:
            mail: to one of schemas.addresses.SIMULATED.
        """
        mail.begun_at = time.monotonic()
        scenario = SIMULATED[mail.recipient.lower()]
        refusal = self._refusal(scenario)
        if refusal is not None:
            return refusal
        if scenario is Scenario.SLOW:
            # Before the claim: a process that dies or gives the record back meanwhile leaves nothing in doubt.
            await asyncio.sleep(SLOW_S)
        if not await before_message():
            return None
        return _NO_ANSWER if scenario is Scenario.IN_DOUBT else _TAKEN

    def _refusal(self, scenario: Scenario) -> Judgement | None:
        if scenario is Scenario.TEMPFAIL or (scenario is Scenario.RETRY_OK and self.attempt == 1):
            return _NOT_NOW
        if scenario is Scenario.PERMFAIL:
            return _NEVER
        return _NOT_WRITTEN_TO if scenario is Scenario.SUPPRESSED else None
