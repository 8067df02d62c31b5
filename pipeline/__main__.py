"""`python -m pipeline`: wire and run the Faust worker."""

import asyncio

from infra.background import Background
from infra.health import Readiness
from infra.kafka import require_topics
from infra.lifecycle import instance_name, run_service
from infra.patience import until_through
from infra.positions import Positions
from infra.progress import ProgressWatch
from infra.record_writer import RecordWriter
from infra.settings import Settings
from pipeline.agent import Batches, declare_agent
from pipeline.app import make_app
from pipeline.dedupe import Deduplicator
from schemas.topics import PIPELINE_GROUP, REQUESTED

# Faust's own stop waits for what is under way, and for ever when Redis is away.
FAUST_STOP_S_MAX = 8.0


async def serve(settings: Settings, readiness: Readiness, stop: asyncio.Event) -> None:
    """Run until *stop*; returns when Faust has left the group, or after FAUST_STOP_S_MAX."""
    instance = instance_name(settings)
    app, table = make_app(settings, instance)
    writer = RecordWriter(settings.kafka_bootstrap, name=f"relevo-pipeline-{instance}")
    await until_through("kafka", lambda: require_topics(settings.kafka_bootstrap), give_up=stop.is_set)
    await until_through("kafka", writer.open, give_up=stop.is_set)
    await until_through("redis", table.open, give_up=stop.is_set)

    deduplicator = Deduplicator(
        table,
        writer,
        readiness,
        hash_key=settings.recipient_hash_key.encode(),
        dead_letter_ratio_max=settings.dead_letter_ratio_max,
    )
    batches = Batches(deduplicator, readiness)
    declare_agent(app, batches)
    batches.start()
    app.in_worker = True
    app.finalize()
    await app.start()
    readiness.green("start")
    background = Background(readiness)
    watch = ProgressWatch(
        Positions(settings.kafka_bootstrap),
        readiness,
        group=PIPELINE_GROUP,
        topic=REQUESTED,
        assigned=lambda: {tp.partition for tp in app.consumer.assignment() if tp.topic == REQUESTED.name},
    )
    watch.start(background)

    await stop.wait()
    await background.stop()
    # A task of its own: a cancellation from a timeout around it would be swallowed inside Faust.
    stopping = asyncio.create_task(app.stop())
    await asyncio.wait({stopping}, timeout=FAUST_STOP_S_MAX)
    await batches.stop()
    await table.close()
    await writer.close()


if __name__ == "__main__":
    run_service("pipeline", serve)
