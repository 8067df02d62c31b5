"""`python -m ingest`: settings -> adapters -> application -> run."""

import asyncio
from pathlib import Path

from infra.background import Background
from infra.egress import open_egress
from infra.health import DependencyHealth, Readiness
from infra.lifecycle import instance_name, run_service
from infra.logs import get_logger
from infra.patience import until_through
from infra.settings import Settings
from ingest.accept import Acceptor
from ingest.access import Access
from ingest.app import Door, make_app
from ingest.batch import Batches
from ingest.contract import Contract
from ingest.cors import Cors
from ingest.docs import render
from ingest.exchange import Traffic
from ingest.handlers import Api, Health, Pages
from ingest.list_store import ListStore
from ingest.peers import Peers
from ingest.probes import KafkaProbe, PostgresProbe, RedisProbe
from ingest.publisher import Publisher
from ingest.rate_limit import RateLimits, RedisBuckets
from ingest.reading import Reading
from ingest.relay import Marker, Relay
from ingest.replay_handlers import Replays
from ingest.replay_store import ReplayStore
from ingest.replay_work import INTERVAL_S as REPLAY_INTERVAL_S
from ingest.replay_work import ReplayWork
from ingest.scheduling import Scheduling
from ingest.scheduling_store import SchedulingStore
from ingest.stats import Stats
from ingest.stats_store import StatsStore
from ingest.store import Store
from ingest.sweep import Gate, Sweep
from ingest.validate import Validation
from ingest.waiting import Waiting
from ingest.webhook_store import WebhookStore
from ingest.webhooks import WebhookApi
from schemas.errors import ConfigurationError

OPENAPI = Path(__file__).parent.parent / "openapi.yaml"

RELAY_STOP_S_MAX = 8.0
_WATCH_INTERVAL_S = 0.25

log = get_logger()


async def serve(settings: Settings, readiness: Readiness, stop: asyncio.Event) -> None:
    """Accept until *stop* is set, then drain: connections first, then what they left for Kafka."""
    settings.require("api_keys", "contact_recipients", "mail_from")
    name = f"ingest-{instance_name(settings)}"
    store = Store(settings.postgres_dsn, name=name, hash_key=settings.recipient_hash_key.encode())
    lists = ListStore(settings.postgres_dsn, name=name)
    waiting = Waiting(lists.terminal)
    publisher = Publisher(settings.kafka_bootstrap, name=name)
    marker = Marker(store)
    relay = Relay(publisher, marker)
    gate = Gate(rows_max=settings.outbox_rows_max, age_s_max=settings.outbox_age_s_max)
    sweep = Sweep(store, publisher, marker, gate)
    dependencies = _dependencies(settings, name)
    access = Access(settings.keys_by_client(), open_on_loopback=settings.development)
    buckets = RedisBuckets(settings.redis_url, name=f"{name}-limits")
    limits = _limits(settings, buckets)
    acceptor = Acceptor(store, relay)
    api = Api(
        acceptor=acceptor,
        gate=gate,
        access=access,
        limits=limits,
        contact_recipients=settings.contact_addresses,
    )
    batches = Batches(acceptor=acceptor, gate=gate, access=access, limits=limits)
    reading = Reading(store=store, lists=lists, waiting=waiting, access=access)
    scheduling = Scheduling(store=store, changes=SchedulingStore(settings.postgres_dsn, name=name), access=access)
    counts = StatsStore(settings.postgres_dsn, name=name)
    stats = Stats(access, counts)
    orders = ReplayStore(settings.postgres_dsn, name=name)
    replays = Replays(orders, access, limits)
    replaying = Background(readiness)
    webhooks = _webhooks(settings, access, limits, name)
    validation, health = Validation(access), Health(dependencies, readiness)
    door = _door(
        settings,
        api,
        batches,
        reading,
        replays,
        stats,
        validation,
        health,
        webhooks=webhooks,
        scheduling=scheduling,
    )
    publisher.warm_up()
    await relay.start()
    await dependencies.start()
    await buckets.open()
    await _open(door, settings)
    watching = asyncio.create_task(_watch(readiness, dependencies, gate))
    replaying.start("replay", ReplayWork(orders, gate).turn, every_s=REPLAY_INTERVAL_S)
    await _run(store, lists, orders, sweep, readiness, stop)
    await replaying.stop()
    await waiting.end()
    await asyncio.gather(door.close(), sweep.stop(RELAY_STOP_S_MAX))
    await relay.stop(RELAY_STOP_S_MAX)
    watching.cancel()
    await dependencies.stop()
    await buckets.close()
    publisher.close()
    await lists.close()
    await orders.close()
    await scheduling.close()
    await counts.close()
    await webhooks.close()
    await store.close()


def _dependencies(settings: Settings, name: str) -> DependencyHealth:
    return DependencyHealth(
        {
            "postgres": PostgresProbe(settings.postgres_dsn, name=name),
            "redis": RedisProbe(settings.redis_url, name=name),
            "kafka": KafkaProbe(settings.kafka_bootstrap, name=name),
        }
    )


def _limits(settings: Settings, buckets: RedisBuckets) -> RateLimits:
    return RateLimits(
        buckets,
        Peers(settings.trusted_proxies),
        notify_per_s=settings.notify_rate_per_s,
        contact_per_min=settings.contact_rate_per_min,
        orders_per_min=settings.orders_rate_per_min,
        open_on_loopback=settings.development,
    )


def _webhooks(settings: Settings, access: Access, limits: RateLimits, name: str) -> WebhookApi:
    return WebhookApi(
        access=access,
        limits=limits,
        store=WebhookStore(settings.postgres_dsn, name=name),
        egress=open_egress(settings),
        plain_allowed=settings.development,
    )


def _door(
    settings: Settings,
    api: Api,
    batches: Batches,
    reading: Reading,
    replays: Replays,
    stats: Stats,
    validation: Validation,
    health: Health,
    *,
    webhooks: WebhookApi,
    scheduling: Scheduling,
) -> Door:
    contract = OPENAPI.read_bytes()
    page, content_policy = render(contract.decode())
    pages = Pages(contract, page, content_policy)
    cors = Cors(settings.cors_origins, local=settings.development)
    traffic = Traffic()
    app = make_app(
        api=api,
        batches=batches,
        reading=reading,
        scheduling=scheduling,
        replays=replays,
        stats=stats,
        webhooks=webhooks,
        validation=validation,
        contract=Contract(),
        health=health,
        pages=pages,
        cors=cors,
        traffic=traffic,
    )
    return Door(app, traffic)


async def _open(door: Door, settings: Settings) -> None:
    try:
        port = await door.open(settings.http_host, settings.http_port)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {settings.http_host}:{settings.http_port} (RELEVO_HTTP_HOST, RELEVO_HTTP_PORT): {error}"
        ) from error
    log.info("http_listening", host=settings.http_host, port=port)


async def _run(
    store: Store, lists: ListStore, orders: ReplayStore, sweep: Sweep, readiness: Readiness, stop: asyncio.Event
) -> None:
    """Connect as soon as Postgres is there (meanwhile the door answers 503), then work until *stop* is set."""

    async def connect() -> None:
        await store.open()
        await lists.open()
        await orders.open()

    connecting = asyncio.create_task(until_through("postgres", connect, give_up=stop.is_set))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({connecting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        connecting.cancel()
        return
    await connecting
    await sweep.start()
    readiness.green("start")
    log.info("service_ready")
    await stopping


async def _watch(readiness: Readiness, dependencies: DependencyHealth, gate: Gate) -> None:
    """Keep the readiness true: what cannot accept should get no requests."""
    while True:
        if dependencies.up()["postgres"]:
            readiness.green("postgres")
        else:
            readiness.red("postgres", "does not answer")
        if gate.full:
            readiness.red("outbox", "too much waits for Kafka")
        else:
            readiness.green("outbox")
        await asyncio.sleep(_WATCH_INTERVAL_S)


if __name__ == "__main__":
    run_service("ingest", serve)
