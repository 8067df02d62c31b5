"""Folding results: the same results give the same counts, in whatever order and with whatever copies they come."""

import json
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.examples.analytics import Fold, Latest
from schemas.identity import result_event_id
from schemas.records import RESULT_SCHEMA
from schemas.states import State


def value(notification_id, seq, status, *, hour=9, event_id=None, schema=RESULT_SCHEMA, test=False):
    return json.dumps(
        {
            "schema": schema,
            "event_id": str(event_id or result_event_id(notification_id, seq)),
            "id": str(notification_id),
            "seq": seq,
            "status": status,
            "occurred_at": f"2026-01-02T{hour:02}:04:05.678Z",
            "test": test,
        }
    ).encode()


def fold(values):
    found = Fold()
    for each in values:
        found.add(each)
    return found


IDS = [UUID(int=number) for number in range(1, 5)]
statuses = st.sampled_from([state.value for state in State if state is not State.REJECTED])
# Of one id, a seq has one status, for ever.
histories = st.lists(st.lists(statuses, min_size=1, max_size=5), min_size=1, max_size=len(IDS))


@given(histories, st.data())
def test_every_state_is_rebuilt_whatever_the_order_and_the_copies(history, data):
    values = [value(IDS[at], seq, status) for at, each in enumerate(history) for seq, status in enumerate(each, 1)]
    copies = data.draw(st.lists(st.sampled_from(values), max_size=10))
    found = fold(data.draw(st.permutations(values + copies)))
    assert {key: latest.status for key, latest in found.latest.items()} == {
        str(IDS[at]): each[-1] for at, each in enumerate(history)
    }
    assert found.by_hour() == fold(values).by_hour()


def test_a_notification_counts_in_the_hour_of_its_last_change():
    found = fold([value(IDS[0], 1, "queued", hour=9), value(IDS[0], 2, "sent", hour=10), value(IDS[1], 1, "queued")])
    assert found.by_hour() == {"2026-01-02T09": {"queued": 1}, "2026-01-02T10": {"sent": 1}}


def test_what_went_to_the_simulator_is_not_counted():
    found = fold([value(IDS[0], 1, "sent"), value(IDS[1], 1, "sent", test=True)])
    assert found.as_json()["notifications"] == 1


def test_rejections_are_counted_apart_once_each_and_hide_no_notification():
    event = uuid4()
    rejection = value(IDS[0], 0, "rejected", event_id=event)
    found = fold([value(IDS[0], 2, "sent"), rejection, rejection, value(None, 0, "rejected", event_id=uuid4())])
    assert found.latest == {str(IDS[0]): Latest(2, "sent", "2026-01-02T09")}
    assert found.as_json()["rejected"] == 2
    assert found.by_hour()["2026-01-02T09"] == {"sent": 1, "rejected": 2}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"5",
        b'{"schema": 1}',
        value(IDS[0], 1, "sent", schema="notifications.results/2"),
        value(IDS[0], 1, "sent", schema="other/1"),
        value(IDS[0], "x", "sent", event_id=uuid4()),
    ],
)
def test_what_is_no_result_is_counted_and_passed_over(raw):
    found = fold([raw, value(IDS[1], 1, "sent")])
    assert (found.unreadable, len(found.latest)) == (1, 1)


def test_a_newer_minor_version_is_understood():
    assert fold([value(IDS[0], 1, "sent", schema=f"{RESULT_SCHEMA}.7")]).unreadable == 0
