"""`python -m sender`: wire and run the sender."""

import asyncio

from aiokafka import AIOKafkaConsumer

from infra.background import Background
from infra.health import Readiness
from infra.kafka import require_topics, start_consumer
from infra.lifecycle import instance_name, run_service
from infra.patience import until_through
from infra.positions import Positions
from infra.postgres import LOOKUPS, open_pool
from infra.progress import ProgressWatch, Worked
from infra.record_writer import RecordWriter
from infra.settings import RelayAddress, Settings
from schemas.identity import new_id
from schemas.topics import DEDUPLICATED, SENDER_GROUP
from sender.channel import Channel
from sender.compose import Composer
from sender.consumer import DeduplicatedConsumer
from sender.deliver import Deliverer
from sender.ladder import Ladder
from sender.lease import Lease
from sender.ledger import Ledger
from sender.parking import Parking
from sender.putting_back import DueAttempts, Reconciler
from sender.relay_rate import RelayRate
from sender.results import ResultPublisher
from sender.smtp import Relay

POSTGRES_CONNECTIONS_MAX = 6


async def serve(settings: Settings, readiness: Readiness, stop: asyncio.Event) -> None:
    """Run until *stop*; returns when claimed deliveries have ended and the rest is given back."""
    settings.require("mail_from")
    instance = instance_name(settings)
    name = f"relevo-sender-{instance}"
    await until_through("kafka", lambda: require_topics(settings.kafka_bootstrap), give_up=stop.is_set)
    writer = RecordWriter(settings.kafka_bootstrap, name=name)
    await until_through("kafka", writer.open, give_up=stop.is_set)
    pool = await until_through(
        "postgres",
        lambda: open_pool(settings.postgres_dsn, name=name, connections_max=POSTGRES_CONNECTIONS_MAX, settings=LOOKUPS),
        give_up=stop.is_set,
    )

    ledger = Ledger(pool, worker=new_id(), worker_name=instance)
    background = Background(readiness)
    lease = Lease(ledger, readiness, background, lease_s=settings.lease_s)
    await until_through("postgres", lease.start, give_up=stop.is_set)
    composer = Composer(settings.sender_address, settings.mail_from_name)
    # After the lease is held: the rate is shared among those who have one.
    relay = _relay(settings, ledger, background)
    channel = Channel(lambda: relay.probe(composer.address), readiness)
    publisher = ResultPublisher(writer, ledger, background)
    deliverer = Deliverer(
        relay=relay,
        ledger=ledger,
        lease=lease,
        publisher=publisher,
        channel=channel,
        composer=composer,
        ladder=Ladder(settings.retry_wait_s, settings.retry_ladder_s, settings.retry_within_s),
    )
    kafka = await until_through(
        "kafka",
        lambda: start_consumer(settings.kafka_bootstrap, group=SENDER_GROUP, name=name, static=bool(settings.instance)),
        give_up=stop.is_set,
    )
    worked = Worked()
    positions = Positions(settings.kafka_bootstrap)
    consumer = DeduplicatedConsumer(
        kafka,
        deliverer,
        ledger,
        writer,
        readiness,
        background,
        worked,
        in_flight_max=settings.in_flight_max,
        hash_key=settings.recipient_hash_key.encode(),
    )
    parking = Parking(pool)
    DueAttempts(parking, writer, background)
    Reconciler(parking, writer, positions, background)
    _progress(positions, readiness, kafka, worked).start(background)
    readiness.green("start")
    readiness.red("assignment", "no partition assigned yet")

    await consumer.run(stop)

    await kafka.stop()
    await background.stop()
    await channel.close()
    await relay.close()
    await lease.end()
    await writer.close()
    await pool.close()


def _relay(settings: Settings, ledger: Ledger, background: Background) -> Relay:
    rate: RelayRate | None = None
    if settings.smtp_rate_per_s:
        rate = RelayRate(ledger.count_leases, rate_per_s=settings.smtp_rate_per_s, lease_s=settings.lease_s)
        rate.start(background)
    return Relay(
        RelayAddress.parse(settings.smtp_url),
        connections_max=settings.smtp_connections_max,
        ca_file=str(settings.smtp_ca_file) if settings.smtp_ca_file else None,
        rate=rate,
    )


def _progress(positions: Positions, readiness: Readiness, kafka: AIOKafkaConsumer, worked: Worked) -> ProgressWatch:
    return ProgressWatch(
        positions,
        readiness,
        group=SENDER_GROUP,
        topic=DEDUPLICATED,
        assigned=lambda: {tp.partition for tp in kafka.assignment()},
        worked=worked,
    )


if __name__ == "__main__":
    run_service("sender", serve)
