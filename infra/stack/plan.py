"""What a stack consists of: which processes, in which order, at which addresses, with which environment."""

import http.client
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from infra.stack import cluster
from infra.stack.child import Recipe
from infra.stack.home import Home, with_checkout
from infra.stack.kafka_server import kafka_recipe
from infra.stack.ports import LOOPBACK
from infra.stack.postgres_server import postgres_dsn, postgres_recipe
from infra.stack.valkey_server import valkey_recipe, valkey_url
from infra.stack.wanted import Wanted

# Settings of the stack itself: another value is no reason to restart a service.
_NO_SERVICE_SETTINGS = {
    "RELEVO_HOME",
    "RELEVO_OPS_PORT",
    "RELEVO_SENDERS",
    "RELEVO_PIPELINES",
    "RELEVO_BROKERS",
    "RELEVO_TOPIC_REPLICATION",
    "RELEVO_MAVEN_REPOSITORY",
}

# Where a service is not a package of its own.
_MODULES = {"feed": "sender.feed"}


class Plan:
    """
    One stack, worked out from what is wanted and from the ports it got.

    ports has, by name: kafka, kafka-controller (with several brokers kafka-1, kafka-1-controller and so on), postgres,
    redis, smtp, mailbox, http, and one for each service process, where its /readyz and /metrics are.
    """

    def __init__(self, home: Home, wanted: Wanted, ports: Mapping[str, int]) -> None:
        self.home, self.wanted, self.ports = home, wanted, ports

    @property
    def brokers(self) -> tuple[str, ...]:
        """Names of the nodes of Kafka; of no use when somebody else's Kafka is given."""
        return cluster.numbered("kafka", self.wanted.brokers)

    @property
    def servers(self) -> tuple[str, ...]:
        """Names of the servers that are ours to start."""
        names = (*self.brokers, "postgres", "redis", "mailbox")
        return tuple(name for name in names if self.wanted.given(cluster.kind_of(name)) is None)

    def servers_of(self, kind: str) -> tuple[str, ...]:
        """Return the names of those that are of one kind: all brokers for kafka; none when it is not ours."""
        return tuple(name for name in self.servers if cluster.kind_of(name) == kind)

    @property
    def services(self) -> tuple[str, ...]:
        """Names of the service processes, the door first."""
        return (
            "ingest",
            *cluster.numbered("pipeline", self.wanted.pipelines),
            *cluster.numbered("sender", self.wanted.senders),
            "feed",
        )

    def port_names_of(self, processes: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the ports of *processes*, but for the door's, which only a person moves."""
        own = {name: (name, cluster.controller_port(name)) for name in self.brokers} | {"mailbox": ("smtp", "mailbox")}
        return tuple(port for process in processes for port in own.get(process, (process,)))

    def addresses(self) -> dict[str, str | None]:
        """Return where each part is, under the names of stack.json."""
        wanted, ports = self.wanted, self.ports
        mailbox = wanted.given("mailbox") is None
        return {
            "ingest_url": f"http://{LOOPBACK}:{ports['http']}",
            "kafka_bootstrap": wanted.given("kafka") or cluster.bootstrap(self.brokers, ports),
            "postgres_dsn": wanted.given("postgres") or postgres_dsn(self.home, ports["postgres"]),
            "redis_url": wanted.given("redis") or valkey_url(ports["redis"]),
            "smtp_url": wanted.given("mailbox") or f"smtp://{LOOPBACK}:{ports['smtp']}",
            "mailbox_url": f"http://{LOOPBACK}:{ports['mailbox']}" if mailbox else None,
        }

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a service or of a command: inherited, with the addresses of this stack."""
        addresses = self.addresses()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        return {
            **with_checkout(inherited),
            "RELEVO_HOME": str(self.home.root),
            "RELEVO_PROFILE": "development",
            **self.wanted.settings,
            "RELEVO_KAFKA_BOOTSTRAP": str(addresses["kafka_bootstrap"]),
            "RELEVO_POSTGRES_DSN": str(addresses["postgres_dsn"]),
            "RELEVO_REDIS_URL": str(addresses["redis_url"]),
            "RELEVO_SMTP_URL": str(addresses["smtp_url"]),
            "RELEVO_HTTP_PORT": str(self.ports["http"]),
            **settings,
        }

    def recipe(self, name: str) -> Recipe:
        """Return how to run the process *name*."""
        if name in self.brokers:
            return kafka_recipe(self.home, cluster.node(name, self.brokers, self.ports), name=name)
        if name == "postgres":
            return postgres_recipe(self.home, self.ports["postgres"])
        if name == "redis":
            return valkey_recipe(self.home, self.ports["redis"])
        if name == "mailbox":
            return self._mailbox()
        return self._service(name)

    def _mailbox(self) -> Recipe:
        smtp, http_port, folder = self.ports["smtp"], self.ports["mailbox"], self.home.folder("mailbox")
        options = ("--smtp-port", str(smtp), "--http-port", str(http_port), "--dir", str(folder))
        return Recipe(
            name="mailbox",
            argv=(sys.executable, "-m", "infra.mailbox", *options),
            program=Path(sys.executable),
            folder=folder,
            log=self.home.log("mailbox"),
            environment=self.environment(),
            ready=lambda: says_ready(f"http://{LOOPBACK}:{http_port}"),
            ports={"smtp": smtp, "mailbox": http_port},
        )

    def _service(self, name: str) -> Recipe:
        ops_port = self.ports[name]
        no_reason = _NO_SERVICE_SETTINGS if name == "ingest" else _NO_SERVICE_SETTINGS | {"RELEVO_HTTP_PORT"}
        environment = self.environment(RELEVO_OPS_PORT=str(ops_port), RELEVO_INSTANCE=name)
        door = {"http": self.ports["http"]} if name == "ingest" else {}
        # ingest says at its door whether it can accept; the others have only their operators' door.
        where = f"http://{LOOPBACK}:{self.ports['http'] if name == 'ingest' else ops_port}"
        return Recipe(
            name=name,
            argv=(sys.executable, "-m", _MODULES.get(name, cluster.kind_of(name))),
            program=Path(sys.executable),
            folder=self.home.folder(name),
            log=self.home.log(name),
            environment=environment,
            ready=lambda: says_ready(where),
            ports={**door, name: ops_port},
            settings={
                setting: value
                for setting, value in environment.items()
                if setting.startswith(("RELEVO_", "OTEL_")) and setting not in no_reason
            },
            ops_port=ops_port,
        )


def says_ready(url: str) -> bool:
    """Tell whether GET /readyz there answers 200 within a second."""
    return ask(url, "GET", "/readyz", timeout_s=1.0)[0] == http.HTTPStatus.OK


def ask(
    url: str,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
) -> tuple[int, bytes]:
    """
    Send one HTTP request to a process of this machine, never through a proxy that the environment may name.

    Returns:
        The status and the body; status 0 when nobody answered.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
