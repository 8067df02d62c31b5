"""`python -m sender.feed`: wire and run the readers of notifications.results."""

import asyncio

from infra.background import Background
from infra.health import Readiness
from infra.kafka import require_topics
from infra.lifecycle import instance_name, run_service
from infra.patience import until_through
from infra.postgres import open_pool
from infra.record_writer import RecordWriter
from infra.settings import Settings
from schemas.topics import FEED_STATISTICS_GROUP, FEED_STATUS_GROUP
from sender.feed.reader import Handle, ResultsReader
from sender.feed.statistics import Statistics
from sender.feed.status import StatusProjection
from sender.feed.store import FeedStore
from sender.feed.webhooks import Webhooks

POSTGRES_CONNECTIONS_MAX = 6


async def serve(settings: Settings, readiness: Readiness, stop: asyncio.Event) -> None:
    """Run until *stop*; returns when every batch in hand has come to its end."""
    # Whose webhooks are served. Without them it would serve nobody's, and say so to no one.
    settings.require("api_keys")
    name = f"relevo-feed-{instance_name(settings)}"
    await until_through("kafka", lambda: require_topics(settings.kafka_bootstrap), give_up=stop.is_set)
    writer = RecordWriter(settings.kafka_bootstrap, name=name)
    await until_through("kafka", writer.open, give_up=stop.is_set)
    pool = await until_through(
        "postgres",
        lambda: open_pool(settings.postgres_dsn, name=name, connections_max=POSTGRES_CONNECTIONS_MAX),
        give_up=stop.is_set,
    )
    store = FeedStore(pool)
    background = Background(readiness)
    statistics = Statistics(store, background)

    def reader(group: str, handle: Handle) -> ResultsReader:
        return ResultsReader(
            settings.kafka_bootstrap,
            group=group,
            name=f"{name}-{group.rpartition('.')[2]}",
            handle=handle,
            readiness=readiness,
            background=background,
            static=bool(settings.instance),
        )

    readers = (
        reader(FEED_STATUS_GROUP, StatusProjection(store, writer).handle),
        reader(FEED_STATISTICS_GROUP, statistics.handle),
    )
    webhooks = Webhooks(settings, pool, readiness, background, name=name)
    readiness.green("start")
    await asyncio.gather(*(each.run(stop) for each in readers), webhooks.run(stop))
    await background.stop()
    await writer.close()
    await pool.close()


if __name__ == "__main__":
    run_service("feed", serve)
