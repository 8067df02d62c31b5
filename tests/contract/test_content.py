"""
What is kept in PostgreSQL comes back as it was, down to its fingerprint.

A notification that a sweep, a later attempt or the reconciler takes from there is compared with what was stored when
it was accepted: a difference would be a conflict with itself, and the accepted one would never be sent.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from infra.postgres import open_pool
from ingest.accept import Submission
from ingest.store import FAST_PATH_S, Store
from schemas.identity import fingerprint, new_id
from schemas.messages import Reason, Source
from schemas.records import decode_requested, encode_requested
from schemas.states import State
from sender.ledger import Enrolment, Ledger, Outcome
from sender.parking import Parking
from tests.builders import make_notification
from tests.integration.ingest.process import make_database

CONTENTS = [
    {},
    {"html": "<p>ñ\u2028</p>", "reply_to": "ops@example.com", "on_doubt": "resend"},
    {"body": "a\r\nb\tc\rd \u0301\U0001f3c3", "subject": " s "},
    {"metadata": {}},
    {"metadata": {"b": 1, "a": True, "ñ": None, "c": "\\u0000", "d": "\u2028"}},
    {"metadata": {"most": 2**63 - 1, "least": -(2**63)}},
    {"metadata": {"float": 0.1, "whole": 1.0, "small": 5e-324, "large": 1.7976931348623157e308}},
    {"metadata": {"n": 123456789.123456789, "third": 1 / 3}},
    {"metadata": {"n": 1e15}},
    {"metadata": {"n": 1e20}},
    # What jsonb would change: it keeps decimals, so 1e16 would come back as 10000000000000000, and -0.0 as 0.0.
    *({"metadata": {"n": n}} for n in (1e16, -1e17, 1e19, -0.0)),
]


@pytest.fixture(scope="module")
def database(servers):
    return asyncio.run(make_database(servers.postgres_dsn))


@pytest.fixture
async def sql(database):
    connection = await asyncpg.connect(database)
    await connection.execute("TRUNCATE notifications, contents, events")
    yield connection
    await connection.close()


def through_kafka(notification):
    ((_, read),) = decode_requested(encode_requested([notification]), None)
    return fingerprint(read.content)


@pytest.mark.parametrize("fields", CONTENTS, ids=lambda fields: str(fields)[:60])
async def test_what_a_sweep_publishes_is_what_was_accepted(database, sql, fields):
    notification = make_notification(**fields)
    store = Store(database, name="test", hash_key=b"")
    await store.open()
    long_ago = datetime.now(UTC) - timedelta(seconds=FAST_PATH_S + 1)
    await store.insert([Submission((notification,), None)], long_ago)
    [swept] = await store.lease(10)
    await store.close()
    assert through_kafka(swept.notification) == fingerprint(notification.content)


@pytest.mark.parametrize("fields", CONTENTS, ids=lambda fields: str(fields)[:60])
async def test_what_is_put_back_for_a_later_attempt_is_what_was_enrolled(database, sql, fields):
    notification = make_notification(**fields)
    pool = await open_pool(database, name="test", connections_max=2)
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    source, now = Source("kafka", 3, 912, 0), datetime.now(UTC)
    await ledger.enrol([Enrolment(notification, source, fingerprint(notification.content), None, now)])
    why = Reason("transient", "smtp_451", "451 later")
    await ledger.record(
        Outcome(notification.id, 1, False, State.RETRYING, why, 5, now, next_attempt_at=now - timedelta(seconds=1))
    )
    [waiting] = await Parking(pool).take_due(rows_max=10, lease_s=30)
    await pool.close()
    assert through_kafka(waiting.notification) == fingerprint(notification.content)
