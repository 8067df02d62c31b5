"""
Where the servers are: what the environment says, else the local stack's stack.json, else the defaults.

The settings of the local stack are those that it was started with (`RELEVO_API_KEYS=... make up`), in the development
profile unless they say otherwise.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from infra.settings import Settings, load_settings
from infra.stack.home import Home
from infra.stack.wanted import Wanted, chosen_home
from schemas.errors import ConfigurationError

# Of stack.json: the address, and the setting that it stands for.
_ADDRESSES = {
    "kafka_bootstrap": "RELEVO_KAFKA_BOOTSTRAP",
    "postgres_dsn": "RELEVO_POSTGRES_DSN",
    "redis_url": "RELEVO_REDIS_URL",
    "smtp_url": "RELEVO_SMTP_URL",
}


@dataclass(frozen=True, slots=True)
class Place:
    """
    One installation as a command sees it.

    stack: what stack.json says; empty when there is no local stack. from_stack: the settings that came from it.
    """

    settings: Settings
    home: Home
    stack: Mapping[str, Any]
    from_stack: frozenset[str]

    @property
    def door_url(self) -> str:
        """Where ingest answers HTTP."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.settings.http_host, self.settings.http_host)
        return f"http://{host}:{self.settings.http_port}"

    @property
    def first_key(self) -> str | None:
        """The first key for the HTTP door that the settings name; None: they name none."""
        keys = self.settings.api_keys
        return keys[0].partition(":")[2] if keys else None

    def origin(self, setting: str) -> str:
        """Return who says where a server is, for a sentence about it."""
        if setting in self.from_stack:
            return str(self.home.stack_file)
        return setting if os.environ.get(setting) else f"the default of {setting}"

    def remedy(self, setting: str) -> str:
        """Return what to do when the server that *setting* names does not answer."""
        if setting in self.from_stack:
            return "`make up` starts what is missing of the local stack, `relevo status` shows it."
        return f"Start it, or correct {setting}."


def without_password(url: str) -> str:
    """Return *url* for people and logs: scheme, host, port and path, but no user, no password and no options."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def find_place(environment: Mapping[str, str] | None = None) -> Place:
    """
    Find out where the servers are.

    Raises:
        ConfigurationError: a setting makes no sense, or the files of the local stack cannot be read.
    """
    given = {name: value for name, value in (os.environ if environment is None else environment).items() if value}
    home = chosen_home()
    stack, local = _of_stack(home)
    settings = load_settings(local | given)
    return Place(settings, home, stack, frozenset(local.keys() - given.keys()))


def _of_stack(home: Home) -> tuple[Mapping[str, Any], dict[str, str]]:
    try:
        if not home.stack_file.exists():
            return {}, {}
        from infra.stack.state import read_state  # noqa: PLC0415 -- needs psutil, which only a local stack has

        stack, wanted = read_state(home), Wanted.load(home)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename} cannot be read ({error.strerror}). Give this user the right to, or set RELEVO_HOME to "
            "the folder of another local stack."
        ) from error
    if not stack.get("kafka_bootstrap"):
        return stack, {}
    local = {"RELEVO_PROFILE": "development"}
    local |= {name: value for name, value in (wanted.settings if wanted else {}).items() if name.startswith("RELEVO_")}
    local |= {setting: str(stack[name]) for name, setting in _ADDRESSES.items() if stack.get(name)}
    if port := urlsplit(str(stack.get("ingest_url") or "")).port:
        local["RELEVO_HTTP_PORT"] = str(port)
    return stack, local
