"""What may be asked about webhooks; every error at once, and none repeats what was sent."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from multidict import MultiDict

from ingest.webhook_requests import DeliveryQuery, Resend, read_delivery_query, read_resend, read_wanted
from schemas.errors import InvalidRequestError
from schemas.states import State
from schemas.webhooks import DEFAULT_STATUSES, DeliveryState

ID = "01a20dc8-0209-7264-868b-fc6a26c24d36"


def errors(read, given):
    with pytest.raises(InvalidRequestError) as refused:
        read(given)
    assert refused.value.code == "invalid_request"
    return {(error.pointer, error.code) for error in refused.value.errors}


def wanted(given):
    return read_wanted(given, plain_allowed=False)


@pytest.mark.parametrize("statuses", [{}, {"statuses": None}])
def test_without_statuses_a_webhook_is_told_of_what_is_final(statuses):
    assert wanted({"url": "https://hooks.example.com/", **statuses}).statuses == DEFAULT_STATUSES


def test_statuses_are_taken_once_each():
    found = wanted({"url": "https://hooks.example.com/", "statuses": ["sent", "retrying", "sent"]})
    assert found.statuses == (State.SENT, State.RETRYING)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], {("", "type")}),
        ({}, {("/url", "required")}),
        ({"url": None}, {("/url", "invalid_url")}),
        ({"url": "http://hooks.example.com"}, {("/url", "invalid_url")}),
        (
            {"url": 7, "statuses": ["sent", "sending", 3], "x": 1},
            {("/url", "invalid_url"), ("/statuses/1", "unknown_value"), ("/statuses/2", "unknown_value")}
            | {("/x", "unknown_field")},
        ),
        ({"url": "https://hooks.example.com", "statuses": []}, {("/statuses", "too_few")}),
        ({"url": "https://hooks.example.com", "statuses": ["sent"] * 12}, {("/statuses", "too_many")}),
        ({"url": "https://hooks.example.com", "statuses": "sent"}, {("/statuses", "type")}),
        (
            {"url": "https://hooks.example.com", "statuses": [["sent"], {}]},
            {("/statuses/0", "unknown_value"), ("/statuses/1", "unknown_value")},
        ),
    ],
)
def test_a_wrong_webhook_is_told_with_its_fields(given, found):
    assert errors(wanted, given) == found


def test_a_resend_names_ids_or_a_window():
    assert read_resend({"ids": [ID, ID]}) == Resend(ids=(UUID(ID),))
    window = {"from": "2026-11-24T08:00:00Z", "to": "2026-11-24T12:00:00+01:00", "failed_only": True}
    assert read_resend(window) == Resend(
        since=datetime(2026, 11, 24, 8, tzinfo=UTC), until=datetime(2026, 11, 24, 11, tzinfo=UTC), failed_only=True
    )


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {("", "type")}),
        ({}, {("/from", "required"), ("/to", "required")}),
        ({"from": "2026-11-24T08:00:00Z"}, {("/to", "required")}),
        ({"ids": []}, {("/ids", "too_few")}),
        ({"ids": [ID] * 101}, {("/ids", "too_many")}),
        ({"ids": ["x"]}, {("/ids/0", "invalid_uuid")}),
        ({"ids": None, "failed_only": None}, {("/ids", "type"), ("/failed_only", "type")}),
        ({"from": None, "to": None}, {("/from", "invalid_time"), ("/to", "invalid_time")}),
        ({"ids": [ID], "to": "2026-11-24T08:00:00Z"}, {("", "ids_or_window")}),
        ({"from": "2026-11-24T08:00:00", "to": 5}, {("/from", "invalid_time"), ("/to", "invalid_time")}),
        ({"from": "2026-11-24T08:00:00Z", "to": "2026-11-24T08:00:00Z"}, {("/to", "empty_window")}),
        ({"ids": [ID], "failed_only": 1, "all": True}, {("/failed_only", "type"), ("/all", "unknown_field")}),
    ],
)
def test_a_wrong_resend_is_told_with_its_fields(given, found):
    assert errors(read_resend, given) == found


def test_a_page_of_deliveries_may_be_of_one_state_and_go_on_behind_another():
    assert read_delivery_query(MultiDict()) == DeliveryQuery()
    query = MultiDict({"state": "failed", "limit": "7", "after": ID})
    assert read_delivery_query(query) == DeliveryQuery(DeliveryState.FAILED, 7, UUID(ID))


def test_a_wrong_page_is_told_with_its_parameters():
    query = MultiDict({"state": "lost", "limit": "101", "after": "x", "page": "2"})
    assert errors(read_delivery_query, query) == {
        ("/state", "unknown_value"),
        ("/limit", "out_of_range"),
        ("/after", "invalid_uuid"),
        ("/page", "unknown_parameter"),
    }
