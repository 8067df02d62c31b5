"""
Every setting, in one place: name, type, unit, default, meaning. Nothing else reads the environment.

All names begin with RELEVO_. Start-up refuses what makes no sense and says which setting, and it refuses a
name that it does not know, because a mistyped setting is a default that nobody chose.
"""

import os
import re
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from infra.failpoints import parse
from schemas.addresses import check_address, check_recipient
from schemas.errors import ConfigurationError

KEY_CHARS_MIN = 20

# Who calls from this very machine without a key, in development; no client can be called so.
LOCAL_CLIENT = "local"
# "contact" and "local" are callers without a key: the contact form, and this machine in development.
_CLIENT_NAME = re.compile(r"(?!(?:contact|local)\Z)[a-z0-9][a-z0-9_-]{0,39}")
# As browsers spell it: in lower case, without user, path or query.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?")
_HOST_AND_PORT = re.compile(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")

# Read by the local stack and the bootstrap, never by a service; listed so that no service refuses them.
STACK_SETTINGS: dict[str, str] = {
    "RELEVO_HOME": "folder that holds everything the local stack keeps; default .relevo in the checkout",
    "RELEVO_SENDERS": "sender processes that `make up` starts; default 1",
    "RELEVO_PIPELINES": "pipeline processes that `make up` starts; default 1",
    "RELEVO_BROKERS": "Kafka brokers that `make up` starts, 3 for a cluster that survives one; default 1",
    "RELEVO_MAVEN_REPOSITORY": "address of a Maven repository to take the Kafka jars from; default Maven Central",
}


class Profile(StrEnum):
    """Whose machine this is."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class SmtpMode(StrEnum):
    """How the connection to the relay is protected."""

    PLAIN = "plain"
    STARTTLS = "starttls"  # required: no mail is sent where the relay does not offer it
    TLS = "tls"  # from the first byte


def _names(text: object) -> object:
    """Split a comma-separated setting; blanks around and empty parts do not count."""
    if isinstance(text, str):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


Names = tuple[str, ...]


class Settings(BaseModel):
    """What the environment says, checked. Read once, by `load_settings`, and passed on as an argument."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    profile: Profile = Field(
        Profile.PRODUCTION,
        description="`development` opens `/api/notify/` to callers on loopback and CORS to localhost; "
        "`production` does neither and refuses to start without keys",
    )
    instance: str = Field(
        "",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$|^$",
        description="name of this process, unique per service: static member id in its consumer group, worker name "
        "in timelines; empty: host name and process id, and no static membership",
    )
    log_level: str = Field(
        "info", pattern=r"^(debug|info|warning|error)$", description="`debug`, `info`, `warning` or `error`"
    )

    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers as `host:port`, separated by commas")
    topic_replication: int = Field(
        1, ge=1, le=7, description="replicas of each topic that `relevo topics apply` creates; 3 in production"
    )
    postgres_dsn: str = Field(
        "postgresql://relevo@127.0.0.1:5432/relevo", description="`postgresql://user:password@host:port/database`"
    )
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", description="`redis://` or `rediss://` address of Redis (7.0 or later) or Valkey"
    )

    http_host: str = Field("127.0.0.1", description="address that the public door listens on")
    http_port: int = Field(8002, ge=0, le=65535, description="port of the public door; 0: a free one")
    ops_host: str = Field("127.0.0.1", description="address for `/livez`, `/readyz` and `/metrics` of each service")
    ops_port: int = Field(0, ge=0, le=65535, description="port for those; 0: a free one, told in the log")

    api_keys: Names = Field(
        (),
        description="keys for `/api/notify/` as `client:key,client:key`; "
        f"a key has at least {KEY_CHARS_MIN} characters",
    )
    cors_origins: Names = Field(
        (), description="origins that may call `/api/contact/` from a browser, such as `https://www.example.org`"
    )
    notify_rate_per_s: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        description="notifications that one client may bring, a batch counts each of its items; at once a second's "
        "worth, but always one batch of 100; 0: no limit",
    )
    contact_rate_per_min: int = Field(
        60,
        ge=0,
        le=1_000_000,
        description="contact messages that one address (of IPv6 one /64) may bring, also all at once; 0: no limit; "
        "in development this very machine is not counted",
    )
    orders_rate_per_min: int = Field(
        60,
        ge=0,
        le=1_000_000,
        description="replays, dry runs among them, and events of its webhook to be tried or sent again that one client "
        "may ask for, also all at once; 0: no limit; in development nobody is counted",
    )
    trusted_proxies: Names = Field(
        (),
        description="networks such as `10.0.0.0/8` of the proxies whose `X-Forwarded-For` says who called; nobody "
        "else's is believed",
    )
    contact_recipients: Names = Field(
        (), description="who gets the contact messages: addresses separated by commas; needed in production"
    )
    mail_from: str = Field("", description="sender address of every mail; needed in production")
    mail_from_name: str = Field(
        "", max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$", description="display name beside it; may be empty"
    )
    recipient_hash_key: str = Field(
        "", description="secret for the `recipient_hash` in results; empty: no such hash is made"
    )

    outbox_rows_max: int = Field(
        1_000_000, ge=1, description="accepted notifications that may wait for Kafka before new ones get 503"
    )
    outbox_age_s_max: float = Field(
        3600.0, gt=0, description="seconds that the oldest of them may have waited before new ones get 503"
    )

    dedupe_window_s: int = Field(
        8 * 24 * 3600,
        ge=60,
        description="seconds for which the Redis-backed table remembers an id; longer than the topic retention",
    )
    dead_letter_ratio_max: float = Field(
        0.95,
        ge=0.5,
        le=1,
        description="share of dead letters among the last 1500 requests above which the pipeline stops instead of "
        "emptying its topic into the dead letters; 1: never",
    )

    smtp_url: str = Field(
        "smtp://127.0.0.1:1025",
        description="the relay: `smtp://user:password@host:587?starttls=required`, `smtps://host:465`, `smtp://host:25`",
    )
    smtp_ca_file: Path | None = Field(
        None, description="file with the certificate authorities to trust for the relay; empty: the system's"
    )
    smtp_connections_max: int = Field(20, ge=1, le=500, description="connections to the relay that one sender keeps")
    smtp_rate_per_s: float = Field(
        0.0,
        le=100_000,
        description="mails that all senders together offer the relay in any second, evenly spaced; at least 1; 0: no "
        "limit. Each sender takes an equal share; one that joins others waits for RELEVO_LEASE_S first",
    )
    retry_ladder_s: tuple[float, ...] = Field(
        (60.0, 300.0, 900.0, 3600.0, 14400.0),
        description="seconds of the waits after the burst, the last one repeated; `none`: the burst is all",
    )
    retry_within_s: float = Field(
        86_400.0, gt=0, description="seconds after acceptance beyond which no later attempt begins"
    )
    retry_wait_s: float = Field(5.0, gt=0, le=60, description="seconds between the tries of one burst, +- 10 %")
    lease_s: float = Field(
        15.0, ge=3, le=300, description="seconds after which a sender that no longer renews its lease counts as dead"
    )
    webhook_waits_s: tuple[float, ...] = Field(
        (5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 28_800.0, 28_800.0),
        description="seconds of the waits between the attempts to deliver an event to a webhook, +- 10 %; in all a day",
    )
    webhook_kept_s: float = Field(
        1_209_600.0,
        ge=86_400,
        description="seconds for which deliveries to webhooks can be looked up and sent again; then they are deleted, "
        "arrived or not",
    )
    webhook_networks: Names = Field(
        (),
        description="networks inside that webhooks may go to, such as `10.20.0.0/16`; all others must be public. In "
        "development the loopback may be reached, too, and `http://` used",
    )
    webhook_ca_file: Path | None = Field(
        None, description="file with the certificate authorities to trust for webhooks; empty: the system's"
    )
    failpoint: str = Field("", description="for tests of crashes: where to die, `name:kill`; never in production")
    in_flight_max: int = Field(1000, ge=1, le=10_000, description="notifications that one sender works on at a time")

    @field_validator(
        "api_keys", "cors_origins", "contact_recipients", "webhook_networks", "trusted_proxies", mode="before"
    )
    @classmethod
    def _split(cls, text: object) -> object:
        return _names(text)

    @field_validator("kafka_bootstrap")
    @classmethod
    def _brokers(cls, brokers: str) -> str:
        if not all(_HOST_AND_PORT.fullmatch(broker.strip()) for broker in brokers.split(",")):
            raise ValueError("must be host:port, or several of them separated by commas")
        return brokers

    @field_validator("postgres_dsn")
    @classmethod
    def _postgres(cls, dsn: str) -> str:
        if not dsn.startswith(("postgresql://", "postgres://")):
            raise ValueError("must look like postgresql://user:password@host:port/database")
        return dsn

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        if not re.match(r"rediss?://[^/\s]", url):
            raise ValueError("must look like redis://host:port/0 or rediss://user:password@host:port/0")
        return url

    @field_validator("retry_ladder_s", mode="before")
    @classmethod
    def _ladder(cls, text: object) -> object:
        return () if text == "none" else _names(text)

    @field_validator("retry_ladder_s", "webhook_waits_s")
    @classmethod
    def _waits(cls, waits: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < wait <= 86_400 for wait in waits):
            raise ValueError("each must be between 0 and 86400 seconds")
        return waits

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for pair in keys:
            client, _, key = pair.partition(":")
            if (
                not _CLIENT_NAME.fullmatch(client)
                or len(key) < KEY_CHARS_MIN
                or not key.isascii()
                or not key.isprintable()
            ):
                raise ValueError(
                    "each must be client:key, the client of a-z, 0-9, - and _ (but not contact or local), "
                    f"the key of at least {KEY_CHARS_MIN} printable characters"
                )
        if len({pair.partition(":")[2] for pair in keys}) != len(keys):
            raise ValueError("the same key stands twice")
        return keys

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    "each must be scheme://host or scheme://host:port, in lower case, without a path and without *"
                )
        return origins

    @field_validator("contact_recipients")
    @classmethod
    def _recipients(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_recipient(check_address(address)) for address in addresses)

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, address: str) -> str:
        return check_address(address) if address else address

    @field_validator("failpoint")
    @classmethod
    def _failpoint(cls, text: str) -> str:
        parse(text)
        return text

    @field_validator("webhook_waits_s", mode="before")
    @classmethod
    def _webhook_waits(cls, text: object) -> object:
        if not (names := _names(text)):
            raise ValueError("must have at least one wait")
        return names

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError("each must be a network such as 10.0.0.0/8, with no bits set behind the /") from None
        return networks

    @field_validator("webhook_networks")
    @classmethod
    def _networks(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            try:
                network = ip_network(text)
            except ValueError:
                raise ValueError("each must be a network such as 10.20.0.0/16, with no bits set behind the /") from None
            # Of the link-local ones are the services of clouds that hand out credentials.
            if network.is_global or network.is_link_local or network.is_multicast:
                raise ValueError("each must be private: what is public is reached anyway, what is link-local never")
        return texts

    @field_validator("smtp_rate_per_s")
    @classmethod
    def _rate(cls, rate_per_s: float) -> float:
        # Slower than that, a sender at work could not be told from one that is stuck.
        if rate_per_s != 0 and rate_per_s < 1:
            raise ValueError("must be 0 for no limit, or at least 1")
        return rate_per_s

    @field_validator("smtp_url")
    @classmethod
    def _relay(cls, url: str) -> str:
        RelayAddress.parse(url)
        return url

    @property
    def development(self) -> bool:
        """Whether this is somebody's own machine."""
        return self.profile is Profile.DEVELOPMENT

    @property
    def sender_address(self) -> str:
        """The sender address of every mail."""
        return self.mail_from or "relevo@relevo.test"

    @property
    def contact_addresses(self) -> tuple[str, ...]:
        """Who gets the contact messages."""
        return self.contact_recipients or ("contact@relevo.test",)

    def keys_by_client(self) -> dict[str, tuple[str, ...]]:
        """Return the keys of each client; a client may have several, for rotation."""
        found: dict[str, tuple[str, ...]] = {}
        for pair in self.api_keys:
            client, _, key = pair.partition(":")
            found[client] = (*found.get(client, ()), key)
        return found

    def clients(self) -> frozenset[str]:
        """Return who may call at the door: each client that has a key, and in development LOCAL_CLIENT."""
        return frozenset(self.keys_by_client()) | ({LOCAL_CLIENT} if self.development else set())

    def require(self, *names: str) -> None:
        """
        Refuse to go on in production when one of the settings *names* is empty; development has defaults for them.

        Raises:
            ConfigurationError: names the first one that is missing, and why it must be there.
        """
        for name in names:
            if not self.development and not getattr(self, name):
                raise ConfigurationError(
                    f"RELEVO_{name.upper()} must be set when RELEVO_PROFILE is production: "
                    f"{Settings.model_fields[name].description}"
                )


_RELAY_FORM = (
    "must look like smtp://host:port or smtps://user:password@host:465; "
    "in user and password write / as %2F, @ as %40, # as %23 and ? as %3F"
)


class RelayAddress:
    """The relay as smtp_url names it: host, port, mode, and the login if there is one."""

    def __init__(self, host: str, port: int, mode: SmtpMode, user: str | None, password: str | None) -> None:
        self.host, self.port, self.mode, self.user, self.password = host, port, mode, user, password

    @classmethod
    def parse(cls, url: str) -> Self:
        """
        Read `smtp://[user:password@]host[:port][?starttls=required]` or `smtps://...`.

        Raises:
            ValueError: says what is wrong, without the password.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Python's sentence repeats a part of the address, and that may be half of a password with a / in it.
            raise ValueError(_RELAY_FORM) from None
        options = parse_qs(parts.query, keep_blank_values=True)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or port == 0:
            raise ValueError(_RELAY_FORM)
        if parts.path not in {"", "/"} or parts.fragment:
            raise ValueError(_RELAY_FORM)
        if options.keys() - {"starttls"} or options.get("starttls", ["required"]) != ["required"]:
            raise ValueError("the only option is ?starttls=required")
        mode = SmtpMode.TLS if parts.scheme == "smtps" else SmtpMode.STARTTLS if options else SmtpMode.PLAIN
        if mode is SmtpMode.TLS and options:
            raise ValueError("smtps:// is encrypted from the first byte; leave ?starttls=required out")
        user, password = parts.username, parts.password
        if (user is not None or password is not None) and not (user and password):
            raise ValueError("give both user and password, or neither")
        if user and mode is SmtpMode.PLAIN and parts.hostname not in {"127.0.0.1", "localhost", "::1"}:
            raise ValueError("a password would go over the network in clear: add ?starttls=required or use smtps://")
        return cls(
            parts.hostname,
            port or {SmtpMode.PLAIN: 25, SmtpMode.STARTTLS: 587, SmtpMode.TLS: 465}[mode],
            mode,
            unquote(user) if user is not None else None,
            unquote(password) if password is not None else None,
        )


def load_settings(environment: dict[str, str] | None = None, **given: Any) -> Settings:
    """
    Read and check the settings.

    Args:
        environment: instead of the process's own, for tests.
        given: settings that take the place of the environment's.
    Raises:
        ConfigurationError: one line per setting that is wrong: its name, what is wrong, never its value.
    """
    source = dict(os.environ) if environment is None else environment
    known = STACK_SETTINGS.keys() | {f"RELEVO_{name.upper()}" for name in Settings.model_fields}
    unknown = [name for name in source if name.startswith("RELEVO_") and name not in known]
    if unknown:
        raise ConfigurationError(f"{min(unknown)} is not a setting; the README lists them all")
    values = {
        name: source[f"RELEVO_{name.upper()}"]
        for name in Settings.model_fields
        if source.get(f"RELEVO_{name.upper()}", "") != ""
    }
    try:
        return Settings(**(values | given))
    except ValidationError as invalid:
        raise ConfigurationError("\n".join(_explain(error) for error in invalid.errors())) from None


def _explain(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    return f"RELEVO_{str(error['loc'][0]).upper()}: {message}" if error["loc"] else message
