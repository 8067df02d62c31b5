"""Statistics at the door: who sees what, how much at once, and how it is read."""

from datetime import UTC, datetime, timedelta

import pytest

from ingest.stats import ROWS_MAX, StatsQuery
from ingest.stats_store import StatsStore
from tests.integration.ingest.process import Ingest

KEY, OTHER_KEY = "k" * 30, "o" * 30
HOUR = datetime(2026, 1, 2, 3, tzinfo=UTC)
WINDOW = "from=2026-01-02T00:00:00Z&to=2026-01-03T00:00:00Z"

ADD = """
INSERT INTO outcome_counts (producer, hour, status, channel, count) VALUES ($1, $2, $3, 'email', $4)
"""


@pytest.fixture(scope="module")
def production(place, tmp_path_factory):
    service = Ingest(
        tmp_path_factory.mktemp("stats"),
        **place,
        profile="production",
        api_keys=f"billing:{KEY},shop:{OTHER_KEY}",
        mail_from="relevo@example.org",
    )
    service.start()
    yield service
    assert service.stop() == 0


@pytest.fixture
async def counted(sql):
    for producer, count in (("", 1), ("billing", 2), ("shop", 4), ("contact", 8)):
        await sql.execute(ADD, producer, HOUR, "sent", count)
        await sql.execute(ADD, producer, HOUR + timedelta(hours=1), "failed", count)
    yield sql
    await sql.execute("DELETE FROM outcome_counts")


async def test_a_client_sees_what_is_its_own_and_what_is_nobodys(production, http, counted):
    async def sums(key):
        headers = {"Authorization": f"Bearer {key}"}
        answer = await http("GET", f"{production.url}/api/stats/?{WINDOW}&by=status", headers=headers)
        assert answer.status == 200, answer.body
        return [(row["status"], row["count"]) for row in answer.body["rows"]]

    assert await sums(KEY) == [("failed", 11), ("sent", 11)]
    assert await sums(OTHER_KEY) == [("failed", 13), ("sent", 13)]


async def test_who_has_no_key_sees_nothing(production, http, counted):
    answer = await http("GET", f"{production.url}/api/stats?{WINDOW}")
    assert (answer.status, answer.body["code"]) == (401, "unauthorized")


async def test_rows_stand_in_the_order_of_what_they_are_kept_apart_by(ingest, http, counted):
    answer = await http("GET", f"{ingest.url}/api/stats?{WINDOW}&by=producer,hour")
    assert [(row["producer"], row["hour"][11:13], row["count"]) for row in answer.body["rows"]] == [
        (None, "03", 1), (None, "04", 1), ("contact", "03", 8), ("contact", "04", 8),
    ]  # fmt: skip


async def test_more_rows_than_an_answer_may_have_are_refused(ingest, http, counted):
    await counted.execute(
        "INSERT INTO outcome_counts (producer, hour, status, channel, count) "
        "SELECT '', $1, 'sent', 'channel ' || n, 1 FROM generate_series(1, $2::int) AS n",
        HOUR,
        ROWS_MAX,
    )
    answer = await http("GET", f"{ingest.url}/api/stats?{WINDOW}&by=channel,status,producer")
    assert answer.status == 422
    assert [(error["pointer"], error["code"]) for error in answer.body["errors"]] == [("/by", "too_many_rows")]
    assert (await http("GET", f"{ingest.url}/api/stats?{WINDOW}&by=status")).status == 200


async def test_a_question_reads_the_rows_of_its_client_and_window_alone(database, counted):
    """A thousand other producers, and a year of hours."""
    await counted.execute(
        "INSERT INTO outcome_counts (producer, hour, status, channel, count) "
        "SELECT 'p' || p, $1::timestamptz + make_interval(hours => h), 'sent', 'email', 1 "
        "FROM generate_series(1, 1000) AS p, generate_series(1, 100) AS h",
        HOUR,
    )
    await counted.execute("ANALYZE outcome_counts")
    rows = await counted.fetch(
        "EXPLAIN SELECT hour, sum(count) FROM outcome_counts "
        "WHERE producer IN ('p7', '', 'contact') AND hour >= $1 AND hour < $2 GROUP BY hour",
        HOUR,
        HOUR + timedelta(hours=24),
    )
    plan = "\n".join(row[0] for row in rows)
    assert "outcome_counts_pkey" in plan, plan
    assert "Seq Scan" not in plan, plan
    store = StatsStore(database, name="test")
    try:
        query = StatsQuery(HOUR, HOUR + timedelta(hours=24), ("hour",))
        assert len(await store.counts(query, "p7", rows_max=100)) == 24
    finally:
        await store.close()
