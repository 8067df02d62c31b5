"""What is made quickly for a batch is what is made carefully for one, byte for byte."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas import results
from schemas.addresses import is_simulated
from schemas.identity import recipient_hash, result_event_id, result_event_text
from schemas.messages import Source
from schemas.records import encode_result_record
from schemas.results import FirstResults
from schemas.states import State
from tests.builders import make_notification

AT = datetime(2026, 11, 24, 12, 0, 0, 1000, tzinfo=UTC)
AT_MS = round(AT.timestamp() * 1000)
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"

notifications = st.builds(
    make_notification,
    id=st.uuids(),
    to=st.sampled_from(["a@example.org", "sim+ok@simulator.invalid"]),
    metadata=st.sampled_from([None, {}, {"order": 17, "ñ": "\\"}]),
    scheduled_for=st.sampled_from([None, AT, AT + timedelta(seconds=1)]),
    producer=st.sampled_from([None, 'a "shop"']),
    replay_of=st.none() | st.uuids(),
)
sources = st.builds(
    Source, st.sampled_from(["http", "kafka"]), st.integers(0, 5), st.integers(0, 2**40), st.integers(0, 499)
)
accepted = st.sampled_from([-1, AT_MS - 86_400_000, AT_MS, AT_MS + 1, AT_MS + 86_400_000])


@given(
    st.lists(st.tuples(notifications, sources, accepted, st.sampled_from([None, TRACE_ID])), min_size=1, max_size=5),
    st.sampled_from([b"", b"key"]),
)
def test_a_first_result_is_what_is_told_of_the_same_change(batch, hash_key):
    firsts = FirstResults(AT, hash_key)
    for notification, source, accepted_ms, trace_id in batch:
        content = notification.content
        accepted_at = results.moment(accepted_ms)
        waits = content.scheduled_for is not None and content.scheduled_for > accepted_at
        change = results.change(
            id=notification.id,
            seq=1,
            status=State.SCHEDULED if waits else State.QUEUED,
            reason=None,
            attempt=0,
            channel=content.channel,
            source=source,
            recipient_hash=recipient_hash(content.to, hash_key),
            accepted_at=accepted_at,
            occurred_at=AT,
            trace_id=trace_id,
            metadata=content.metadata,
            producer=notification.producer,
            replay_of=notification.replay_of,
            test=is_simulated(content.to),
        )
        key = str(notification.id).encode()
        assert firsts.encode(notification, key, source, accepted_ms, trace_id) == encode_result_record(change)


@given(st.uuids(), st.integers(0, 2**15))
def test_an_event_id_is_the_same_as_text(notification_id, seq):
    assert result_event_text(str(notification_id), seq) == str(result_event_id(notification_id, seq))
