"""Waiting has its bound: who comes too many is told so, and nobody else notices."""

import pytest
from aiohttp.test_utils import make_mocked_request
from opentelemetry.trace import INVALID_SPAN

from ingest.access import Access
from ingest.exchange import EXCHANGE, Exchange
from ingest.problems import ProblemError
from ingest.reading import Reading
from ingest.waiting import Waiting
from schemas.identity import new_id
from tests.unit.ingest.test_timeline import row


class FakeStore:
    def __init__(self, *histories):
        self.histories = list(histories)

    async def history(self, _notification_id):
        return self.histories.pop(0)


def asked(query):
    request = make_mocked_request(
        "GET", f"/api/notifications/{new_id()}{query}", headers={"Authorization": "Bearer billing-key"}
    )
    request._match_info = {"id": request.path.rpartition("/")[2]}
    request[EXCHANGE] = Exchange("GET", "/api/notifications/{id}", "r", INVALID_SPAN, "", None)
    return request


def reading(*histories, waiters_max):
    async def nothing(_ids):
        return set()

    return Reading(
        store=FakeStore(*histories),
        lists=None,
        waiting=Waiting(nothing, waiters_max=waiters_max),
        access=Access({"billing": ("billing-key",)}, open_on_loopback=False),
    )


async def test_when_too_many_wait_the_next_one_is_told():
    full = reading([row()], waiters_max=0)
    with pytest.raises(ProblemError, match="too_many_waiting"):
        await full.status(asked("?wait=5"))


@pytest.mark.parametrize(("query", "state"), [("", "queued"), ("?wait=0", "queued"), ("?wait=5", "sent")])
async def test_who_has_nothing_to_wait_for_needs_no_room(query, state):
    full = reading([row(state=state)], waiters_max=0)
    assert (await full.status(asked(query))).status == 200
