"""The HTTP door as `relevo send` uses it: one request, one JSON answer, and refusals as errors of a command."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from infra.cli.lines import printable
from infra.cli.output import CommandError, Exit
from schemas.errors import ConfigurationError

ANSWER_S_MAX = 10.0


class Door:
    """
    Where ingest answers.

    Args:
        url: `http://host:port` or `https://host`, perhaps with a path before `/api`.
        key: sent as a bearer token; None: no key, which is enough on loopback in development.
    Raises:
        ConfigurationError: the url is none.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigurationError(f"{printable(url)} is no address of a door; it must look like http://host:port.")
        # By itself this goes through no proxy, whatever the environment names.
        self._connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._place, self._path = parts.netloc.rpartition("@")[2], parts.path
        self._headers = {"Accept": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def post(
        self, path: str, document: object, *, idempotency_key: str | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the answer and its headers, names in lower case; see `get` for what is raised."""
        named = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._ask("POST", path, json.dumps(document).encode(), named)

    def put(self, path: str, document: object) -> dict[str, Any]:
        """Return the answer; see `get` for what is raised."""
        return self._ask("PUT", path, json.dumps(document).encode())[0]

    def delete(self, path: str) -> dict[str, Any]:
        """Return the answer, empty if it has no body; see `get` for what is raised."""
        return self._ask("DELETE", path, None)[0]

    def get(self, path: str) -> dict[str, Any]:
        """
        Return the answer.

        Raises:
            CommandError: unavailable when nobody answers; otherwise the code of the problem, in its own words.
        """
        return self._ask("GET", path, None)[0]

    def _ask(
        self, method: str, path: str, body: bytes | None, named: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        connection = self._connect(self._place, timeout=ANSWER_S_MAX)
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {}) | dict(named or {})
        try:
            connection.request(method, self._path + path, body, headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (OSError, http.client.HTTPException) as error:
            detail = f"The door at {self.url} does not answer: {type(error).__name__}."
            raise CommandError(Exit.UNAVAILABLE, "unavailable", detail) from error
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.NO_CONTENT:
            return {}, {name.lower(): value for name, value in answer.getheaders()}
        try:
            document = json.loads(raw)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            detail = f"What answers at {self.url} is not relevo: HTTP {answer.status} without a JSON object."
            raise CommandError(Exit.FAILED, "not_relevo", detail, "Correct the address.")
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise problem(answer.status, document)
        return document, {name.lower(): value for name, value in answer.getheaders()}


def problem(status: int, document: dict[str, Any]) -> CommandError:
    """Return what a problem document (RFC 9457) says, as an error of a command."""
    code = str(document.get("code") or f"http_{status}")
    errors = [each for each in document.get("errors") or () if isinstance(each, dict)]
    said = "; ".join(f"{each.get('pointer') or '/'} {each.get('detail')}" for each in errors)
    detail = printable(f"{document.get('title') or 'Refused'}: {said or document.get('detail') or f'HTTP {status}'}")
    match status:
        case http.HTTPStatus.UNAUTHORIZED:
            return CommandError(
                Exit.CONFIGURATION, code, "The door asks for a key.", "Give one with --key, or set RELEVO_API_KEYS."
            )
        case http.HTTPStatus.TOO_MANY_REQUESTS | http.HTTPStatus.SERVICE_UNAVAILABLE:
            return CommandError(Exit.UNAVAILABLE, code, detail, "`relevo doctor` says what is in the way.")
    return CommandError(Exit.FAILED, code, detail)
