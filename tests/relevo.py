"""A whole relevo for tests: the three services on real servers and a real mailbox, and ways to use it from outside."""

import json
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from confluent_kafka import Consumer, Producer, TopicPartition

from infra.stack.ports import free_port
from schemas.topics import DEAD_LETTERS, REQUESTED, RESULTS
from tests.processes import ROOT, ServiceProcess, eventually, get_json


class Servers(Protocol):
    """Real servers, wherever they run, and what a test may do to them. Names: kafka, postgres, redis."""

    @property
    def kafka_bootstrap(self) -> str: ...
    @property
    def postgres_dsn(self) -> str: ...
    @property
    def redis_url(self) -> str: ...

    def start_all(self) -> None: ...
    def start(self, name: str) -> None: ...
    def kill(self, name: str) -> None: ...
    def terminate(self, name: str) -> None: ...
    def pause(self, name: str) -> None: ...
    def resume(self, name: str) -> None: ...
    def stop(self) -> None: ...


class MailboxProcess:
    """The SMTP sink in a process of its own."""

    def __init__(self, home: Path, *options: str) -> None:
        self.home = home
        self.smtp_port = free_port()
        self.http_port = free_port()
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def smtp_url(self) -> str:
        return f"smtp://127.0.0.1:{self.smtp_port}"

    def start(self) -> None:
        with (self.home / "mailbox.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "infra.mailbox", "--dir", str(self.home / "mails")),
                    *("--smtp-port", str(self.smtp_port), "--http-port", str(self.http_port), *self.options),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )
        eventually(lambda: get_json(f"http://127.0.0.1:{self.http_port}/readyz")[0] == 200)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def messages(self, **filters: str) -> list[dict[str, Any]]:
        """Return what arrived, newest first; filters: to, notification_id, message_id."""
        query = "&".join(f"{name}={urllib.request.quote(value)}" for name, value in filters.items())
        status, found = get_json(f"http://127.0.0.1:{self.http_port}/api/messages?limit=10000&{query}")
        assert status == 200
        return found

    def message(self, number: int) -> dict[str, Any]:
        return get_json(f"http://127.0.0.1:{self.http_port}/api/messages/{number}")[1]

    def counts(self) -> dict[str, int]:
        return get_json(f"http://127.0.0.1:{self.http_port}/api/counts", 30)[1]

    def scenario(self, **wanted: object) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/api/scenario",
            json.dumps(wanted).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=5).close()


class Relevo:
    """
    The three services. Settings given here are added to, or take the place of, those of a development profile.
    """

    def __init__(self, servers: Servers, mailbox: MailboxProcess, home: Path, **settings: str) -> None:
        self.servers, self.mailbox, self.home = servers, mailbox, home
        self.http_port = free_port()
        self.environment = {
            "RELEVO_PROFILE": "development",
            "RELEVO_KAFKA_BOOTSTRAP": servers.kafka_bootstrap,
            "RELEVO_POSTGRES_DSN": servers.postgres_dsn,
            "RELEVO_REDIS_URL": servers.redis_url,
            "RELEVO_SMTP_URL": mailbox.smtp_url,
            "RELEVO_HTTP_PORT": str(self.http_port),
            "RELEVO_CONTACT_RECIPIENTS": "contact@example.org",
            "RELEVO_MAIL_FROM": "relevo@example.org",
            "RELEVO_RECIPIENT_HASH_KEY": "a secret of the tests",
            "RELEVO_LEASE_S": "5",
        } | settings
        self.ingest = self.service("ingest")
        self.pipeline = self.service("pipeline")
        self.sender = self.service("sender")
        # Started by those tests alone that ask for it.
        self.feed = self.service("sender.feed", "feed")

    def service(self, module: str, instance: str = "", **settings: str) -> ServiceProcess:
        """Return one more process of a service, not started."""
        name = instance or module
        return ServiceProcess(
            module, self.environment | {"RELEVO_INSTANCE": name} | settings, self.home / f"{name}.log"
        )

    @property
    def services(self) -> tuple[ServiceProcess, ...]:
        return self.ingest, self.pipeline, self.sender

    def start(self, *, feed: bool = False) -> None:
        services = (*self.services, self.feed) if feed else self.services
        for service in services:
            service.spawn()
        for service in services:
            service.wait_ready()

    def stop(self) -> None:
        for service in (*self.services, self.feed):
            service.stop()

    # -- the HTTP door ------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """POST *body* as JSON (bytes go as they are); status, JSON body, headers in lower case."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        request = urllib.request.Request(self.url + path, data, named, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read()), _lower(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read()), _lower(error.headers)

    def notify(self, to: str = "", **fields: object) -> str:
        """Accept one notification over HTTP; its id."""
        request = {"to": to or address(), "subject": "Alerta", "body": "Se ha detectado."} | fields
        status, answer, _ = self.post("/api/notify/", request)
        assert status == 202, answer
        return answer["id"]

    def status(self, notification_id: str) -> dict[str, Any]:
        return get_json(f"{self.url}/api/notifications/{notification_id}")[1]

    def wait_for(self, notification_id: str, state: str, within_s: float = 20.0) -> dict[str, Any]:
        """Return the status document once it is in *state*."""

        def look() -> dict[str, Any] | None:
            found = self.status(notification_id)
            assert found.get("status") == state, found
            return found

        return eventually(look, within_s)

    # -- the Kafka door -----------------------------------------------------------------------------------------

    def produce(self, value: object, *, key: bytes | None = None, headers: list | None = None) -> tuple[int, int]:
        """Produce one record to notifications.requested as any Kafka client would; partition and offset."""
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        reports = []
        producer = Producer({"bootstrap.servers": self.servers.kafka_bootstrap, "message.max.bytes": 8 * 1024 * 1024})
        producer.produce(
            REQUESTED.name,
            raw,
            key,
            headers=headers or [],
            on_delivery=lambda error, record: reports.append((error, record)),
        )
        assert producer.flush(15) == 0
        error, record = reports[0]
        assert error is None, error
        return record.partition(), record.offset()

    def records(self, topic: str) -> list[Any]:
        """Return every record of *topic* up to its present end, partition by partition."""
        return read_topic(self.servers.kafka_bootstrap, topic)

    def results(self, notification_id: str | None = None) -> list[dict[str, Any]]:
        """Return the results, of one id or of all, copies folded away, in order of seq for each id."""
        folded = {}
        for record in self.records(RESULTS.name):
            result = json.loads(record.value())
            if notification_id in {None, result["id"]}:
                folded[result["event_id"]] = result
        return sorted(folded.values(), key=lambda result: (str(result["id"]), result["seq"]))

    def rejections_at(self, partition: int, offset: int) -> list[dict[str, Any]]:
        return [
            result
            for result in self.results()
            if result["status"] == "rejected"
            and (result["source"]["partition"], result["source"]["offset"]) == (partition, offset)
        ]

    def dead_letters(self) -> list[Any]:
        return self.records(DEAD_LETTERS.name)


def read_topic(bootstrap: str, topic: str) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"test-{uuid4()}", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = {}
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            if high > low:
                ends[partition] = (low, high)
        consumer.assign([TopicPartition(topic, partition, low) for partition, (low, _) in ends.items()])
        found: defaultdict[int, list] = defaultdict(list)
        waiting = {partition: high for partition, (_, high) in ends.items()}
        deadline = time.monotonic() + 30
        while waiting and time.monotonic() < deadline:
            for record in consumer.consume(500, 0.2):
                assert record.error() is None, record.error()
                found[record.partition()].append(record)
                if record.offset() + 1 >= waiting.get(record.partition(), 0):
                    waiting.pop(record.partition(), None)
        assert not waiting, f"{topic} could not be read to its end"
        return [record for partition in sorted(found) for record in found[partition]]
    finally:
        consumer.close()


def address(scenario: str = "") -> str:
    """Return an address that no other test uses; *scenario* tells the mailbox what to do with it."""
    return f"t{uuid4().hex[:12]}{'+' + scenario if scenario else ''}@example.org"


def _lower(headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
