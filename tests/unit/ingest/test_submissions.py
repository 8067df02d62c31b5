"""From JSON and a key to a submission: identity first, and every error at once."""

import uuid

import pytest

from ingest.submissions import submission_of_contact, submission_of_notify
from schemas.errors import InvalidRequestError
from schemas.identity import id_from_key
from tests.unit.ingest.fakes import TRACEPARENT

GIVEN = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}
FORM = {"name": "Elon", "email": "elon@xcorp.com", "message": "Hola"}
SOME_ID = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"


def notify(given, *keys, client="billing"):
    return submission_of_notify(given, keys=keys, client=client, traceparent=TRACEPARENT)


def contact(given, *keys):
    return submission_of_contact(given, keys=keys, recipients=("a@example.org",), traceparent=TRACEPARENT)


def errors_of(call, *arguments, **named):
    with pytest.raises(InvalidRequestError) as refused:
        call(*arguments, **named)
    assert refused.value.code == "invalid_request"
    return [(error.pointer, error.code) for error in refused.value.errors]


def test_without_identity_it_gets_one_that_rises_with_time():
    ids = [notify(GIVEN).first.id for _ in range(2)]
    assert ids[0] != ids[1]
    assert all(each.version == 7 for each in ids)


@pytest.mark.parametrize("spelling", [SOME_ID, SOME_ID.upper()])
def test_a_uuid_is_the_id_itself_in_the_body_and_in_the_header(spelling):
    assert notify(GIVEN | {"id": spelling}).first.id == uuid.UUID(SOME_ID)
    assert notify(GIVEN, spelling).first.id == uuid.UUID(SOME_ID)
    assert notify(GIVEN | {"id": SOME_ID}, spelling).first.id == uuid.UUID(SOME_ID)


def test_any_other_key_is_mapped_for_each_client():
    assert notify(GIVEN, "order-1").first.id == id_from_key("billing", "order-1")
    assert notify(GIVEN, "order-1", client="shop").first.id != id_from_key("billing", "order-1")


def test_a_key_and_an_id_that_mean_different_things_are_refused():
    assert errors_of(notify, GIVEN | {"id": SOME_ID}, "order-1") == [("/id", "id_mismatch")]
    mapped = str(id_from_key("billing", "order-1"))
    assert str(notify(GIVEN | {"id": mapped}, "order-1").first.id) == mapped


def test_an_id_that_was_made_from_a_key_is_taken_with_its_key_only():
    """Otherwise whoever guesses another client's key could use its id first, or see that it is in use."""
    stolen = str(id_from_key("billing", "order-1"))
    assert errors_of(notify, GIVEN | {"id": stolen}, client="shop") == [("/id", "reserved_id")]
    assert errors_of(notify, GIVEN | {"id": stolen}) == [("/id", "reserved_id")]
    assert errors_of(notify, GIVEN, stolen, client="shop") == [("", "reserved_id")]
    assert errors_of(notify, GIVEN | {"id": stolen}, stolen, client="shop") == [("", "reserved_id")]
    assert str(notify(GIVEN | {"id": stolen}, "order-1").first.id) == stolen


def test_what_names_no_id_takes_the_one_that_is_there_for_it():
    otherwise = uuid.UUID(SOME_ID)
    named = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5f"
    given = {"keys": (), "client": "billing", "traceparent": TRACEPARENT, "otherwise": otherwise}
    assert submission_of_notify(GIVEN, **given).first.id == otherwise
    assert str(submission_of_notify(GIVEN | {"id": named}, **given).first.id) == named


@pytest.mark.parametrize("keys", [("",), ("x" * 256,), ("ñ",), ("a\tb",), ("a", "b")])
def test_a_key_that_is_none_is_refused(keys):
    assert errors_of(notify, GIVEN, *keys) == [("", "invalid_idempotency_key")]
    assert errors_of(contact, FORM, *keys) == [("", "invalid_idempotency_key")]


def test_the_same_key_twice_is_one_key():
    assert notify(GIVEN, "a", "a").first.id == notify(GIVEN, "a").first.id


def test_all_errors_come_at_once():
    given = {"id": "nope", "to": "nobody", "subject": "a\r\nBcc: b", "priority": "high", "scheduled_for": "later"}
    assert set(errors_of(notify, given, "ñ")) == {
        ("", "invalid_idempotency_key"),
        ("/id", "invalid_uuid"),
        ("/to", "invalid_address"),
        ("/subject", "control_character"),
        ("/body", "required"),
        ("/priority", "unknown_field"),
        ("/scheduled_for", "invalid_time"),
    }


def test_an_error_never_repeats_what_was_sent():
    canary = "canary-7f3a"
    given = {"id": canary, "to": canary, "subject": f"{canary}\n", "body": 1, "metadata": {canary: [canary]}}
    with pytest.raises(InvalidRequestError) as refused:
        notify(given)
    assert canary not in " ".join(error.detail for error in refused.value.errors)


@pytest.mark.parametrize("given", [None, [], "x", 1, True])
def test_what_is_no_object_is_refused(given):
    assert errors_of(notify, given) == [("", "type")]
    assert errors_of(contact, given) == [("", "type")]


def test_on_the_contact_form_a_uuid_is_no_id():
    submission = contact(FORM, SOME_ID)
    assert submission.first.id == id_from_key("contact", SOME_ID)
    assert submission.client is None


def test_the_contact_form_ignores_what_it_does_not_know():
    assert contact(FORM | {"id": SOME_ID, "website": ""}).contact.name == "Elon"


def test_of_very_many_errors_the_first_hundred_are_told():
    assert len(errors_of(notify, {f"x{number}": 1 for number in range(5_000)})) == 100
