"""
What stack somebody asked for: the settings of `make up`, kept so that whoever watches the stack knows them.

A second `make up` adds to the first: what it does not mention stays as it was, so it starts only what is missing. A
setting that is given as empty is forgotten, `make down` forgets them all, and settings with which the stack did not
come up are not carried on to the next try.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self
from uuid import uuid4

from infra.stack.cluster import BROKERS_MAX, brokers_of_data, check_brokers, topic_replication
from infra.stack.files import write_whole
from infra.stack.home import CHECKOUT, Home
from schemas.errors import ConfigurationError

_PASSED_ON = ("RELEVO_", "OTEL_")
# Read by the stack, not by a service.
_STACK_SETTINGS = {"RELEVO_SENDERS", "RELEVO_PIPELINES", "RELEVO_BROKERS", "RELEVO_MAVEN_REPOSITORY"}
# These say where this stack is, or differ from process to process.
_NOT_PASSED_ON = {"RELEVO_HOME", "RELEVO_INSTANCE", "RELEVO_OPS_PORT"}

# A setting that names a part, and the process that is then not started.
GIVEN_PARTS = {
    "RELEVO_KAFKA_BOOTSTRAP": "kafka",
    "RELEVO_POSTGRES_DSN": "postgres",
    "RELEVO_REDIS_URL": "redis",
    "RELEVO_SMTP_URL": "mailbox",
}

_COUNT_MAX = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    One request for a stack.

    asked tells two requests apart, so that who asked sees when it was taken up. came_up are the settings with which
    the stack came up last, which the next request adds to.
    """

    asked: str
    settings: Mapping[str, str]
    came_up: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, before: Self | None, environment: Mapping[str, str] | None = None) -> Self:
        """
        Return what is wanted now: what was wanted *before*, changed by what the environment says.

        Raises:
            ConfigurationError: a setting of the stack makes no sense.
        """
        source = os.environ if environment is None else environment
        now = {name: value for name, value in source.items() if name.startswith(_PASSED_ON)}
        came_up = before.came_up if before else {}
        merged = {**came_up, **now}
        wanted = cls(uuid4().hex, {n: v for n, v in merged.items() if v != "" and n not in _NOT_PASSED_ON}, came_up)
        wanted.check()
        return wanted

    @classmethod
    def load(cls, home: Home) -> Self | None:
        """Return what was asked for last; None when nothing is wanted."""
        try:
            kept = json.loads(home.wanted_file.read_text(encoding="utf-8"))
            wanted = cls(kept["asked"], kept["settings"], kept["came_up"])
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return wanted.with_replication()

    def with_replication(self) -> Self:
        """Return it with the replicas of each topic, unless somebody chose them, for `relevo topics apply`."""
        if self.brokers == 1 or self.given("kafka"):
            return self
        chosen = {"RELEVO_TOPIC_REPLICATION": str(topic_replication(self.brokers))} | dict(self.settings)
        return replace(self, settings=chosen)

    def with_brokers_of(self, home: Home) -> Self:
        """
        Return it with the number of brokers that the data of *home* has, when nobody asks for another.

        Raises:
            ConfigurationError: somebody does.
        """
        if self.given("kafka"):
            return self
        before = brokers_of_data(home)
        if before is not None and before != self.brokers and "RELEVO_BROKERS" not in self.settings:
            return replace(self, settings={**self.settings, "RELEVO_BROKERS": str(before)})
        check_brokers(home, self.brokers)
        return self

    def save(self, home: Home) -> None:
        """Keep it; for this user's eyes only, because it may hold keys and passwords."""
        write_whole(home.wanted_file, json.dumps(asdict(self), indent=1))

    def save_as_up(self, home: Home) -> None:
        """Keep it as what the next request adds to."""
        replace(self, came_up=self.settings).save(home)

    def check(self) -> None:
        """
        Read every setting once, so that nonsense is refused before anything is started.

        Raises:
            ConfigurationError: names the setting.
        """
        _ = self.senders, self.pipelines, self.brokers, self.http_port
        services = {name: value for name, value in self.settings.items() if name not in _STACK_SETTINGS}
        if services:
            # Imported only here: it takes a third of a second, and an ordinary `make up` has no such settings.
            from infra.settings import load_settings  # noqa: PLC0415 -- slow to import, and seldom needed here

            load_settings(services)

    @property
    def senders(self) -> int:
        """How many sender processes."""
        return self._number("RELEVO_SENDERS", 1, 1, _COUNT_MAX)

    @property
    def pipelines(self) -> int:
        """How many pipeline processes."""
        return self._number("RELEVO_PIPELINES", 1, 1, _COUNT_MAX)

    @property
    def brokers(self) -> int:
        """How many nodes Kafka has."""
        return self._number("RELEVO_BROKERS", 1, 1, BROKERS_MAX)

    @property
    def http_port(self) -> int:
        """Port of the public door; 0 for a free one."""
        return self._number("RELEVO_HTTP_PORT", 8002, 0, 65535)

    @property
    def http_port_given(self) -> bool:
        """Whether somebody chose the port of the door."""
        return "RELEVO_HTTP_PORT" in self.settings

    def given(self, process: str) -> str | None:
        """Return the address that takes the place of *process*; None when it is ours to start."""
        for setting, part in GIVEN_PARTS.items():
            if part == process:
                return self.settings.get(setting)
        return None

    def api_key(self) -> str | None:
        """Return a key for `/api/notify/`, if the settings have one."""
        first = self.settings.get("RELEVO_API_KEYS", "").split(",")[0].strip()
        return first.partition(":")[2] or None

    def _number(self, setting: str, default: int, least: int, most: int) -> int:
        text = self.settings.get(setting, str(default))
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ConfigurationError(f"{setting} must be a whole number from {least} to {most}, not {text!r}.")
        return int(text)


def put_into_environment(wanted: Wanted) -> None:
    """Make the settings of this process those that are wanted: what it starts inherits them, and no older ones."""
    for name in [name for name in os.environ if name.startswith(_PASSED_ON)]:
        del os.environ[name]
    os.environ.update(wanted.settings)


def chosen_home() -> Home:
    """Return the home that RELEVO_HOME names, or `.relevo` in this checkout."""
    given = os.environ.get("RELEVO_HOME")
    return Home(Path(given).expanduser() if given else CHECKOUT / ".relevo")
