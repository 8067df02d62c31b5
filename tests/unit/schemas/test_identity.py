"""Which id a request has, and when two requests are the same."""

import time
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import (
    contact_id,
    fingerprint,
    id_from_key,
    id_in_batch,
    is_made_from_key,
    new_id,
    recipient_hash,
    rejection_event_id,
    result_event_id,
)
from schemas.messages import Content, Source
from schemas.records import decode_requested, encode_requested
from tests.builders import make_content, make_notification


def test_a_new_id_is_a_uuid_of_version_7():
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 1000
    assert all(each.version == 7 and each.variant == "specified in RFC 4122" for each in ids)
    assert all(before <= each.int >> 80 <= after for each in ids)


def test_ids_rise_with_time(monkeypatch):
    ids = []
    for milliseconds in (0, 1, 2, 0xFFFF, 2**40, 2**48 - 1):
        monkeypatch.setattr("schemas.identity.time.time_ns", lambda now=milliseconds: now * 1_000_000)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert [str(each)[14] for each in ids] == ["7"] * 6


def test_a_key_means_one_id_for_each_client():
    assert id_from_key("shop", "order-1") == id_from_key("shop", "order-1")
    ids = {id_from_key(client, key) for client in ("shop", "shop2", "crm") for key in ("order-1", "order-2", "Order-1")}
    assert len(ids) == 9


def test_the_items_of_a_batch_have_ids_in_a_space_of_their_own():
    """The same key, a UUID or not, means nothing to a batch that it means to a lone notification or another client."""
    uuid_key = "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e"
    ids = [
        id_in_batch(client, key, place)
        for client in ("shop", "crm")
        for key in ("order-1", "1", "11", uuid_key)
        for place in (0, 1, 11, 99)
    ]
    ids += [id_from_key(client, key) for client in ("shop", "crm") for key in ("order-1", "1", "0\n1", "11", uuid_key)]
    assert len({*ids, UUID(uuid_key)}) == len(ids) + 1


def test_what_was_made_from_a_key_is_known_by_its_looks():
    made = [id_from_key("shop", str(number)) for number in range(100)]
    made += [id_in_batch("shop", "a", place) for place in range(100)]
    made += [contact_id(new_id(), 1)]
    assert all(map(is_made_from_key, made))
    assert {(each.version, each.variant) for each in made} == {(8, "specified in RFC 4122")}
    others = [new_id(), uuid4(), result_event_id(new_id(), 1), UUID("72656c65-343e-4e16-a5f1-5d98cafaacf1")]
    assert not any(map(is_made_from_key, [*others, UUID("72656c66-343e-8e16-a5f1-5d98cafaacf1")]))


def test_ids_that_are_made_from_something_never_change():
    """Golden: a changed value would send again what was already sent, and count again what was already counted."""
    first = UUID("0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e")
    assert str(id_from_key("shop", "order-1")) == "72656c65-343e-8e16-a5f1-5d98cafaacf1"
    assert str(id_in_batch("shop", "order-1", 3)) == "72656c65-bbdf-8bff-8ec2-1500fde6d11d"
    assert str(result_event_id(first, 2)) == "082d63bc-a27c-5392-9030-fb102d8b47c5"
    assert str(rejection_event_id("3:912:0")) == "7bb20918-4fa0-52b2-b406-d59f7b6579d2"
    assert str(contact_id(first, 1)) == "72656c65-ad60-84db-90cc-85ac099e5b06"
    content = make_content(metadata={"b": 1, "a": True}, html="<p>ñ</p>", reply_to="a@b.org")
    assert fingerprint(content).hex() == "eb693a156a4cff970d80d2f83f3d55a4"


def test_event_ids_are_one_for_each_change():
    first, second = uuid4(), uuid4()
    ids = [result_event_id(each, seq) for each in (first, second) for seq in range(5)]
    ids += [
        rejection_event_id(Source("kafka", *place).coordinates())
        for place in ((0, 1, 0), (0, 1, 1), (0, 11, 0), (1, 1, 0))
    ]
    assert len(set(ids)) == len(ids)
    assert result_event_id(first, 3) == ids[3]


def test_the_first_recipient_of_a_contact_message_has_the_id_itself():
    first = new_id()
    assert contact_id(first, 0) == first
    assert len({contact_id(first, place) for place in range(5)}) == 5


def test_a_recipient_is_named_by_a_keyed_hash_or_not_at_all():
    assert recipient_hash("a@b.org", b"") is None
    one = recipient_hash("a@b.org", b"key")
    assert one == recipient_hash("A@b.ORG", b"key")
    assert len({one, recipient_hash("a@b.org", b"other"), recipient_hash("c@b.org", b"key")}) == 3
    assert len(one) == 32


FIELDS = {
    "to": st.sampled_from(["a@b.org", "A@b.org", "c@b.org"]),
    "subject": st.sampled_from(["s", "S", "s ", "sb"]),
    "body": st.sampled_from(["b", "bb", '","', "ñ", "n\u0303"]),
    "html": st.sampled_from([None, "b", "null"]),
    "reply_to": st.sampled_from([None, "a@b.org"]),
    "metadata": st.none()
    | st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([None, True, False, 1, 0, 1.0, 0.5, 1e16, -0.0, "", "1", "true", "null", 2**63 - 1]),
        max_size=3,
    ),
}
contents = st.fixed_dictionaries(FIELDS).map(lambda fields: Content(**fields))


def told_apart(content):
    """Types too: True == 1 == 1.0 for Python, and they are three things for whoever reads the results."""
    metadata = content.metadata
    kept = None if metadata is None else {name: (type(value), repr(value)) for name, value in metadata.items()}
    return content.model_dump() | {"metadata": kept}


@given(contents, contents)
def test_fingerprints_are_equal_exactly_for_equal_content(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (told_apart(one) == told_apart(other))
    assert len(fingerprint(one)) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"to": "other@example.org"},
        {"subject": "Otra"},
        {"body": "Otra."},
        {"html": "<p>"},
        {"reply_to": "a@b.org"},
        {"metadata": {}},
        {"metadata": {"a": 1}},
    ],
)
def test_every_field_counts(change):
    assert fingerprint(make_content(**change)) != fingerprint(make_content())


def test_the_order_of_metadata_does_not_count():
    one, other = make_content(metadata={"a": 1, "b": 2}), make_content(metadata={"b": 2, "a": 1})
    assert fingerprint(one) == fingerprint(other)


@given(contents)
def test_a_fingerprint_survives_the_way_through_kafka(content):
    # Ingest takes it before, the pipeline and the sender after: a difference would be a conflict with itself.
    notification = make_notification(**content.model_dump())
    ((_, read),) = decode_requested(encode_requested([notification]), None)
    assert fingerprint(read.content) == fingerprint(notification.content)
