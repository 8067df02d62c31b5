"""Results as they stand on notifications.results, for tests of whoever reads them."""

import json
from datetime import UTC, datetime
from uuid import uuid4

from aiokafka import ConsumerRecord

from schemas import results
from schemas.errors import FieldError
from schemas.messages import Reason, Source
from schemas.records import Rejection, encode_result_record
from schemas.states import State
from schemas.topics import RESULTS

AT = datetime(2025, 1, 24, 12, 30, tzinfo=UTC)


def make_change(**changes):
    """One change of state, as a result."""
    return results.change(
        **{
            "id": uuid4(),
            "seq": 2,
            "status": State.SENT,
            "reason": Reason("ok", "sent", "250 ok"),
            "attempt": 1,
            "channel": "email",
            "source": Source("kafka", 3, 912, 0),
            "recipient_hash": "a hash",
            "accepted_at": AT,
            "occurred_at": AT,
            "trace_id": None,
            "metadata": None,
            "producer": None,
            "replay_of": None,
            "test": False,
        }
        | changes
    )


def make_rejection(*, notification_id=None, offset=7):
    """One rejected item, as a result."""
    why = Rejection(0, notification_id, "invalid_request", (FieldError("/to", "required", "is required"),))
    return results.rejection(why, Source("kafka", 1, offset, 0), came_at=AT, occurred_at=AT, trace_id=None)


def as_record(result, offset=0, partition=0):
    """The record that a reader gets: of a result, or of any bytes."""
    key, value, headers = (None, result, []) if isinstance(result, bytes | None) else encode_result_record(result)
    return ConsumerRecord(
        topic=RESULTS.name,
        partition=partition,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=key,
        value=value,
        checksum=None,
        serialized_key_size=0,
        serialized_value_size=0,
        headers=tuple(headers),
    )


def changed(result, **fields):
    """The record of *result*, with other fields in its value."""
    return as_record(json.dumps(json.loads(encode_result_record(result)[1]) | fields).encode())
