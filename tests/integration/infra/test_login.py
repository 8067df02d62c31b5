"""PostgreSQL refuses a login: at start that is a person's to mend, later it is an outage like any other."""

import asyncio
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from infra.postgres import open_pool
from infra.stack.ports import free_port
from schemas.errors import ConfigurationError, TransientError
from tests.processes import eventually
from tests.relevo import Relevo


def execute(servers, *statements):
    async def run():
        connection = await asyncpg.connect(servers.postgres_dsn)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture
def login(servers):
    """A user of its own with all rights of the owner: name and address."""
    name = f"user_{uuid4().hex[:8]}"
    address = urlsplit(servers.postgres_dsn)
    execute(servers, f"CREATE ROLE {name} LOGIN PASSWORD 'right' IN ROLE \"{address.username}\"")
    yield name, f"postgresql://{name}:right@{address.hostname}:{address.port}{address.path}"
    execute(servers, f"DROP ROLE {name}")


def wrong(dsn, how):
    """Return the address with something wrong in it, and what is to be said of it."""
    address = urlsplit(dsn)
    return {
        "password": (dsn.replace(":right@", ":s3cret@"), "correct user and password in it"),
        "user": (dsn.replace(f"{address.username}:", "nobody:"), "correct user and password in it"),
        "database": (dsn.replace(address.path, "/nowhere"), "create that database, or correct its name"),
        "option": (f"{dsn}?sslmode=sometimes", "`sslmode` parameter must be one of"),
        "port": (dsn.replace(str(address.port), "s3cret"), "it must look like postgresql://"),
    }[how]


@pytest.mark.parametrize("how", ["password", "user", "database", "option", "port"])
async def test_what_is_wrong_with_the_address_is_told_and_not_waited_for(login, how):
    dsn, said = wrong(login[1], how)
    with pytest.raises(ConfigurationError) as caught:
        await open_pool(dsn, name="t", connections_max=1)
    assert str(caught.value).startswith("RELEVO_POSTGRES_DSN")
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_server_that_is_away_is_waited_for():
    for dsn in (f"postgresql://r@127.0.0.1:{free_port()}/d", "postgresql:///d?host=/nowhere&user=r"):
        with pytest.raises(TransientError):
            await open_pool(dsn, name="t", connections_max=1)


@pytest.mark.parametrize(("module", "how"), [("ingest", "database"), ("sender", "password")])
def test_a_service_ends_with_78_and_one_sentence(servers, mailbox, login, tmp_path, module, how):
    dsn, said = wrong(login[1], how)
    service = Relevo(servers, mailbox, tmp_path, RELEVO_POSTGRES_DSN=dsn).service(module, f"login-{module}")
    service.spawn()
    assert service.process.wait(30) == 78
    (told,) = service.events("configuration_refused")
    assert said in told["error"]
    assert f"relevo {module}: RELEVO_POSTGRES_DSN: " in service.tail()
    assert "Traceback" not in service.tail()


def test_a_password_that_becomes_wrong_is_an_outage_that_ends_when_it_is_right_again(servers, mailbox, login, tmp_path):
    name, dsn = login
    ends_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'"
    sender = Relevo(servers, mailbox, tmp_path, RELEVO_POSTGRES_DSN=dsn).service("sender", "login-later")
    sender.start()
    try:
        execute(servers, f"ALTER ROLE {name} PASSWORD 'another'", ends_all)
        reasons = eventually(lambda: sender.readiness()[1].get("reasons"), 15)
        assert reasons == {"postgres": "does not answer"}
        assert sender.alive
        # Every turn of its work that needs the ledger, and none takes it for a bug.
        eventually(lambda: sender.events("turn_postponed"), 15)
        assert not sender.events("turn_broke"), sender.tail()
        execute(servers, f"ALTER ROLE {name} PASSWORD 'right'")
        eventually(lambda: sender.readiness()[0] == 200, 15)
    finally:
        sender.stop()
