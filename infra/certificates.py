"""
The certificate files that settings name, looked at before a service starts.

To the clients a file that is not there is an error like a server that is away: they would ask for ever. Later nobody
looks again: a file that vanishes under a running service is an outage, and is waited for.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from infra.settings import Settings
from schemas.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class _Named:
    """
    What one setting names; empty: nothing.

    where: the setting, and the option in it if it has several. authorities: those to trust, or a list of what they
    have revoked. certificate, key, password: how we show who we are; without a key it is in the file of the
    certificate.
    """

    where: str
    authorities: str = ""
    certificate: str = ""
    key: str = ""
    password: str = ""


def require_certificates(service: str, settings: Settings) -> None:
    """
    Refuse to start when *service* could not use a certificate file that its settings name.

    Raises:
        ConfigurationError: names the setting, the file, what is wrong and what to do.
    """
    for of_setting in _NAMED_FOR.get(service, ()):
        for named in of_setting(settings):
            _load(named)


def _load(named: _Named) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if named.authorities:
            context.load_verify_locations(cafile=named.authorities)
        if named.certificate:
            # Never None: OpenSSL would ask the terminal for the password of an encrypted key.
            context.load_cert_chain(named.certificate, named.key or None, password=named.password)
    except OSError as error:
        files = named.authorities or " and ".join(filter(None, (named.certificate, named.key)))
        why = "holds nothing of the kind" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(
            f"{named.where} names {files}, which cannot be used: {why}. "
            "Put the certificate there in PEM format, readable for this user, or correct the setting"
        ) from error


def _of_postgres(settings: Settings) -> Iterator[_Named]:
    setting, options = "RELEVO_POSTGRES_DSN", _options(settings.postgres_dsn)
    mode = options.get("sslmode", "prefer")
    # Under these conditions the driver reads them.
    if mode in {"require", "verify-ca", "verify-full"}:
        for name in ("sslrootcert", "sslcrl"):
            yield _Named(f"{setting} (option {name})", authorities=options.get(name, ""))
    if mode != "disable":
        yield _Named(
            f"{setting} (options sslcert and sslkey)",
            certificate=options.get("sslcert", ""),
            key=options.get("sslkey", ""),
            password=options.get("sslpassword", ""),
        )


def _of_redis(settings: Settings) -> Iterator[_Named]:
    setting, options = "RELEVO_REDIS_URL", _options(settings.redis_url)
    if settings.redis_url.startswith("rediss:"):
        yield _Named(f"{setting} (option ssl_ca_certs)", authorities=options.get("ssl_ca_certs", ""))
        yield _Named(
            f"{setting} (options ssl_certfile and ssl_keyfile)",
            certificate=options.get("ssl_certfile", ""),
            key=options.get("ssl_keyfile", ""),
            password=options.get("ssl_password", ""),
        )


def _of_relay(settings: Settings) -> Iterator[_Named]:
    if settings.smtp_ca_file is not None:
        yield _Named("RELEVO_SMTP_CA_FILE", authorities=str(settings.smtp_ca_file))


def _of_webhooks(settings: Settings) -> Iterator[_Named]:
    if settings.webhook_ca_file is not None:
        yield _Named("RELEVO_WEBHOOK_CA_FILE", authorities=str(settings.webhook_ca_file))


def _options(url: str) -> Mapping[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


# Only what a service uses itself: the file for the relay need not be where ingest runs.
_NAMED_FOR: Mapping[str, tuple[Callable[[Settings], Iterator[_Named]], ...]] = {
    "ingest": (_of_postgres, _of_redis),
    "pipeline": (_of_redis,),
    "sender": (_of_postgres, _of_relay),
    "feed": (_of_postgres, _of_webhooks),
}
