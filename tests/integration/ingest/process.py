"""The ingest service as a process of its own, and a database of its own."""

import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from infra.migrate import upgrade
from infra.stack.ports import free_port
from tests.processes import ServiceProcess


class Ingest(ServiceProcess):
    """One `python -m ingest` in the development profile, unless *settings* say otherwise."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.http_port = free_port()
        named = {f"RELEVO_{name.upper()}": str(value) for name, value in settings.items()}
        defaults = {"RELEVO_PROFILE": "development", "RELEVO_HTTP_PORT": str(self.http_port)}
        super().__init__("ingest", defaults | named, folder / "ingest.log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def ops_url(self) -> str:
        return f"http://127.0.0.1:{self.ops_port}"


async def make_database(dsn: str, *, tables: bool = True) -> str:
    """Create a database beside the one of *dsn* and return its address."""
    name = f"ingest_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    made = urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    if tables:
        await upgrade(made)
    return made
