"""`python -m ingest`: settings -> adapters -> application -> run."""

import asyncio
from pathlib import Path

from infra.health import DependencyHealth, Readiness
from infra.lifecycle import instance_name, run_service
from infra.logs import get_logger
from infra.patience import until_through
from infra.settings import Settings
from ingest.accept import Acceptor
from ingest.access import Access
from ingest.app import Door, make_app
from ingest.cors import Cors
from ingest.docs import render
from ingest.exchange import Traffic
from ingest.handlers import Api, Health, Pages
from ingest.probes import KafkaProbe, PostgresProbe, RedisProbe
from ingest.publisher import Publisher
from ingest.relay import Marker, Relay
from ingest.store import Store
from ingest.sweep import Gate, Sweep
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
    publisher = Publisher(settings.kafka_bootstrap, name=name)
    marker = Marker(store)
    relay = Relay(publisher, marker)
    gate = Gate(rows_max=settings.outbox_rows_max, age_s_max=settings.outbox_age_s_max)
    sweep = Sweep(store, publisher, marker, gate)
    dependencies = _dependencies(settings, name)
    api = Api(
        acceptor=Acceptor(store, relay),
        gate=gate,
        store=store,
        access=Access(settings.keys_by_client(), open_on_loopback=settings.development),
        contact_recipients=settings.contact_addresses,
    )
    door = _door(settings, api, Health(dependencies, readiness))
    publisher.warm_up()
    await relay.start()
    await dependencies.start()
    await _open(door, settings)
    watching = asyncio.create_task(_watch(readiness, dependencies, gate))
    await _run(store, sweep, readiness, stop)
    await asyncio.gather(door.close(), sweep.stop(RELAY_STOP_S_MAX))
    await relay.stop(RELAY_STOP_S_MAX)
    watching.cancel()
    await dependencies.stop()
    publisher.close()
    await store.close()


def _dependencies(settings: Settings, name: str) -> DependencyHealth:
    return DependencyHealth(
        {
            "postgres": PostgresProbe(settings.postgres_dsn, name=name),
            "redis": RedisProbe(settings.redis_url, name=name),
            "kafka": KafkaProbe(settings.kafka_bootstrap, name=name),
        }
    )


def _door(settings: Settings, api: Api, health: Health) -> Door:
    contract = OPENAPI.read_bytes()
    page, content_policy = render(contract.decode())
    pages = Pages(contract, page, content_policy)
    cors = Cors(settings.cors_origins, local=settings.development)
    traffic = Traffic()
    return Door(make_app(api=api, health=health, pages=pages, cors=cors, traffic=traffic), traffic)


async def _open(door: Door, settings: Settings) -> None:
    try:
        port = await door.open(settings.http_host, settings.http_port)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {settings.http_host}:{settings.http_port} (RELEVO_HTTP_HOST, RELEVO_HTTP_PORT): {error}"
        ) from error
    log.info("http_listening", host=settings.http_host, port=port)


async def _run(store: Store, sweep: Sweep, readiness: Readiness, stop: asyncio.Event) -> None:
    """Connect as soon as Postgres is there (meanwhile the door answers 503), then work until *stop* is set."""
    connecting = asyncio.create_task(until_through("postgres", store.open, give_up=stop.is_set))
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
