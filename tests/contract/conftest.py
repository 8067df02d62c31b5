"""The service in the production profile, so that a missing key is an error that can be found."""

import asyncio

import pytest

from tests.integration.ingest.process import Ingest, make_database

KEY = "contract-key-0123456789"


@pytest.fixture(scope="session")
def door(servers, tmp_path_factory):
    service = Ingest(
        tmp_path_factory.mktemp("contract"),
        profile="production",
        postgres_dsn=asyncio.run(make_database(servers.postgres_dsn)),
        kafka_bootstrap=servers.kafka_bootstrap,
        redis_url=servers.redis_url,
        api_keys=f"contract:{KEY}",
        orders_rate_per_min=0,
        contact_recipients="contact@example.org",
        mail_from="relevo@example.org",
        cors_origins="https://www.example.org",
        contact_rate_per_min=0,
    )
    service.start()
    yield service
    assert service.stop() == 0
