"""A receiver of webhooks for tests: a real HTTP server that notes what comes, and answers as it is told."""

import json
import ssl
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from infra.stack.ports import free_port


@dataclass
class Received:
    """One request. headers: names in lower case. at: monotonic seconds."""

    headers: dict[str, str]
    body: bytes
    answered: int
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """Return the event, if it is signed with *secret*, as the package of the standard sees it."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """
    Listens on one port of this machine, also after it was stopped and started again.

    status and headers: what it answers; may be changed at any time. script: statuses that are answered first.
    pause_s: how long it thinks before.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.script: list[int] = []
        self.pause_s = 0.0
        self.came: list[Received] = []
        self._tls = tls
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}/hook"

    @property
    def taken(self) -> list[Received]:
        """What was answered with 2xx."""
        return [each for each in self.came if 200 <= each.answered < 300]

    def times_taken(self) -> Counter[str]:
        """How often each webhook-id was answered with 2xx."""
        return Counter(each.id for each in self.taken)

    def notifications(self) -> set[str]:
        """The ids of the notifications that what was taken tells of."""
        return {json.loads(each.body)["data"].get("id") for each in self.taken}

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(receiver.pause_s)
                status = receiver.script.pop(0) if receiver.script else receiver.status
                named = {name.lower(): value for name, value in self.headers.items()}
                receiver.came.append(Received(named, body, status))
                self.send_response(status)
                for name, value in {"Content-Length": "2", **receiver.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_what: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_what: object) -> None:
                pass  # a client that breaks off is no news

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
