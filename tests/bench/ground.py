"""The ground that every side stands on: the same PostgreSQL, the same Valkey, the same sink; and the loader."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from infra.stack import servers as local_servers
from infra.stack.ports import free_port
from tests.bench.loader import Order
from tests.processes import ROOT


class Controlled:
    """A process of the measurement with a control port, which takes and gives one JSON object a line."""

    def __init__(self, home: Path, module: str, *arguments: str, control_port: int) -> None:
        self.control_port = control_port
        argv = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        with (home / f"{module}.log").open("ab") as log:
            self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while True:
            try:
                self._connection = socket.create_connection(("127.0.0.1", control_port), 5)
                break
            except OSError:
                assert time.monotonic() < deadline, f"{module} does not come up"
                time.sleep(0.05)
        self._connection.settimeout(120)
        self._answers = self._connection.makefile("r")

    def ask(self, do: str, **more: object) -> dict[str, int]:
        self._connection.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
        answer: dict[str, int] = json.loads(self._answers.readline())
        return answer

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._answers.close()
        self._connection.close()


class Distance(Controlled):
    """The delaying proxy in front of the port *target_port*."""

    def __init__(self, home: Path, target_port: int, *, round_trip_ms: float, port: int = 0) -> None:
        self.port, control_port = port or free_port(), free_port()
        arguments = (str(self.port), str(target_port), str(control_port), str(round_trip_ms / 2))
        super().__init__(home, "distance", *arguments, control_port=control_port)


class Sink(Controlled):
    """The lean SMTP sink in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.smtp_port, control_port = free_port(), free_port()
        super().__init__(home, "sink", str(self.smtp_port), str(control_port), control_port=control_port)

    @property
    def count(self) -> int:
        return self.ask("count")["count"]

    def wait_for(self, count: int, within_s: float) -> dict[str, int]:
        """Return the counts once *count* mails are there, or nothing has come for 10 s, or the time is over."""
        deadline, before, since = time.monotonic() + within_s, -1, time.monotonic()
        while True:
            found = self.ask("count")
            if found["count"] != before:
                before, since = found["count"], time.monotonic()
            if found["count"] >= count or time.monotonic() > deadline or time.monotonic() - since > 10:
                return found
            time.sleep(0.05)

    def taken(self, path: Path) -> list[tuple[str, int]]:
        """Return the id of each mail since the last reset, and when it came, in nanoseconds of the epoch."""
        self.ask("dump", path=str(path))
        return read_ids(path)


def read_ids(path: Path) -> list[tuple[str, int]]:
    """Return the pairs of id and nanosecond that sink and loader write."""
    pairs = (line.split(" ") for line in path.read_text(encoding="utf-8").splitlines() if line)
    return [(each, int(at)) for each, at in pairs]


class Ground:
    """PostgreSQL, Valkey and Kafka under *home*, and the sink. Everything ends with `stop`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.servers = local_servers.start(home / "servers")
        self.sink = Sink(home)
        self.loading: subprocess.Popen[bytes] | None = None
        self._orders = 0

    @property
    def postgres(self) -> int:
        return self.servers.pid("postgres")

    @property
    def redis(self) -> int:
        return self.servers.pid("redis")

    @property
    def kafka(self) -> int:
        return self.servers.pid("kafka")

    @property
    def redis_port(self) -> int:
        return int(self.servers.redis_url.rpartition(":")[2].partition("/")[0])

    def database(self, name: str) -> str:
        """Return the address of database *name* on the same server."""
        head, _, _ = self.servers.postgres_dsn.rpartition("/")
        return f"{head}/{name}"

    def load(self, **order: object) -> tuple[dict[str, object], list[tuple[str, int]]]:
        """Run one load to its end: what the loader says, and each accepted id with the time it was due."""
        self._orders += 1
        ids_file = self.home / f"ids-{self._orders}"
        full = Order(ids_file=str(ids_file), sink_control_port=self.sink.control_port, **order)
        self.loading = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.loader"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        said, _ = self.loading.communicate(json.dumps(asdict(full)).encode(), timeout=full.seconds + 120)
        assert self.loading.returncode == 0, "the loader failed"
        self.loading = None
        ids = read_ids(ids_file)
        ids_file.unlink()
        return json.loads(said), ids

    def stop(self) -> None:
        if self.loading is not None:
            self.loading.kill()
        self.sink.stop()
        self.servers.stop()
