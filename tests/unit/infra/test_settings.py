"""Start-up refuses nonsense: by the name of the setting, and without its value."""

import pytest

from infra.settings import STACK_SETTINGS, Profile, RelayAddress, Settings, SmtpMode, load_settings
from schemas.errors import ConfigurationError

KEY = "0123456789abcdefghij"


def refusal(**environment):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environment)
    return str(caught.value)


def test_without_an_environment_there_are_the_defaults():
    settings = load_settings({})
    assert settings == Settings()
    assert settings.profile is Profile.PRODUCTION
    assert not settings.development


def test_every_setting_can_be_given():
    given = {
        "RELEVO_PROFILE": "development",
        "RELEVO_HTTP_PORT": "0",
        "RELEVO_API_KEYS": f" shop:{KEY}, crm:{KEY}x ,,shop:{KEY}y",
        "RELEVO_CORS_ORIGINS": "https://www.example.org,http://localhost:3000,http://[::1]:80",
        "RELEVO_CONTACT_RECIPIENTS": "ventas@EXAMPLE.org",
        "RELEVO_KAFKA_BOOTSTRAP": "kafka-1:9092, 10.0.0.1:9092,[::1]:9092",
        "RELEVO_POSTGRES_DSN": "postgres://u:p@h/d?sslmode=require",
        "RELEVO_REDIS_URL": "rediss://:p@h:6380/1",
        "RELEVO_MAIL_FROM_NAME": "Relevo, el relé ñ",
        "RELEVO_SMTP_CA_FILE": "/etc/ca.pem",
        "PATH": "/bin",
    }
    settings = load_settings(given)
    assert settings.development
    assert settings.http_port == 0
    assert settings.keys_by_client() == {"shop": (KEY, KEY + "y"), "crm": (KEY + "x",)}
    assert settings.cors_origins == ("https://www.example.org", "http://localhost:3000", "http://[::1]:80")
    assert settings.contact_addresses == ("ventas@example.org",)


def test_an_empty_variable_is_as_good_as_none():
    assert load_settings({f"RELEVO_{name.upper()}": "" for name in Settings.model_fields}) == Settings()


def test_what_is_given_takes_the_place_of_the_environment():
    assert load_settings({"RELEVO_HTTP_PORT": "1"}, http_port=2).http_port == 2


SECRET = "canary0secret"

NONSENSE = [
    ("PROFILE", SECRET),
    ("PROFILE", "Development"),
    ("INSTANCE", f"{SECRET} 1"),
    ("INSTANCE", "-x"),
    ("INSTANCE", "x" * 65),
    ("LOG_LEVEL", SECRET),
    ("KAFKA_BOOTSTRAP", SECRET),
    ("KAFKA_BOOTSTRAP", f"{SECRET}:9092,"),
    ("KAFKA_BOOTSTRAP", f"kafka://{SECRET}:9092"),
    ("KAFKA_BOOTSTRAP", f"{SECRET}:port"),
    ("TOPIC_REPLICATION", "0"),
    ("POSTGRES_DSN", f"user:{SECRET}@host/database"),
    ("POSTGRES_DSN", f"mysql://user:{SECRET}@host"),
    ("REDIS_URL", f"{SECRET}:6379"),
    ("REDIS_URL", "redis://"),
    ("HTTP_PORT", SECRET),
    ("HTTP_PORT", "-1"),
    ("HTTP_PORT", "65536"),
    ("OPS_PORT", "80.5"),
    ("API_KEYS", SECRET),
    ("API_KEYS", f"shop:{SECRET}"),
    ("API_KEYS", f"shop:{KEY},{KEY}{SECRET}"),
    ("API_KEYS", f"Shop:{KEY}{SECRET}"),
    ("API_KEYS", f"contact:{KEY}{SECRET}"),
    ("API_KEYS", f"local:{KEY}{SECRET}"),
    ("API_KEYS", f"shop:{KEY}{SECRET}ñ"),
    ("API_KEYS", f"shop:{KEY}{SECRET}\t1"),
    ("API_KEYS", f"shop:{KEY}{SECRET},crm:{KEY}{SECRET}"),
    ("CORS_ORIGINS", "*"),
    ("CORS_ORIGINS", f"https://{SECRET}.org/"),
    ("CORS_ORIGINS", f"{SECRET}.org"),
    ("CORS_ORIGINS", "https://*.example.org"),
    ("CORS_ORIGINS", f"https://user:{SECRET}@example.org"),
    ("CORS_ORIGINS", "https://Example.org"),
    ("CORS_ORIGINS", "null"),
    ("NOTIFY_RATE_PER_S", "-1"),
    ("NOTIFY_RATE_PER_S", "inf"),
    ("CONTACT_RATE_PER_MIN", "-1"),
    ("ORDERS_RATE_PER_MIN", "-1"),
    ("CONTACT_RATE_PER_MIN", "1.5"),
    ("ORDERS_RATE_PER_MIN", "1.5"),
    ("TRUSTED_PROXIES", SECRET),
    ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("CONTACT_RECIPIENTS", f"good@example.org,{SECRET}"),
    ("CONTACT_RECIPIENTS", f"Elon <{SECRET}@example.org>"),
    ("MAIL_FROM", SECRET),
    ("MAIL_FROM", f"{SECRET}@example.org\r\nBcc: a@b.org"),
    ("MAIL_FROM_NAME", f"{SECRET}\r\nBcc: a@b.org"),
    ("MAIL_FROM_NAME", f"{SECRET}\x00"),
    ("MAIL_FROM_NAME", "x" * 101),
    ("OUTBOX_ROWS_MAX", "0"),
    ("OUTBOX_AGE_S_MAX", "0"),
    ("OUTBOX_AGE_S_MAX", "inf"),
    ("OUTBOX_AGE_S_MAX", "nan"),
    ("DEDUPE_WINDOW_S", "59"),
    ("DEDUPE_WINDOW_S", "8d"),
    ("SMTP_URL", f"{SECRET}"),
    ("SMTP_CONNECTIONS_MAX", "0"),
    ("SMTP_CONNECTIONS_MAX", "501"),
    ("SMTP_RATE_PER_S", "0.5"),
    ("SMTP_RATE_PER_S", "-1"),
    ("SMTP_RATE_PER_S", "100001"),
    ("DEAD_LETTER_RATIO_MAX", "1.5"),
    ("DEAD_LETTER_RATIO_MAX", "0"),
    ("RETRY_LADDER_S", "soon"),
    ("RETRY_LADDER_S", "60,0"),
    ("RETRY_LADDER_S", "60,90000"),
    ("RETRY_WITHIN_S", "0"),
    ("FAILPOINT", "sender.nowhere:kill"),
    ("FAILPOINT", "sender.after_dot:explode"),
    ("RETRY_WAIT_S", "0"),
    ("RETRY_WAIT_S", "61"),
    ("RETRY_WAIT_S", "nan"),
    ("LEASE_S", "2.9"),
    ("WEBHOOK_WAITS_S", "soon"),
    ("WEBHOOK_WAITS_S", "5,0"),
    ("WEBHOOK_WAITS_S", ","),
    ("WEBHOOK_KEPT_S", "86399"),
    ("WEBHOOK_NETWORKS", SECRET),
    ("WEBHOOK_NETWORKS", "10.0.0.0/8,0.0.0.0/0"),
    ("WEBHOOK_NETWORKS", "169.254.0.0/16"),
    ("IN_FLIGHT_MAX", "0"),
]


@pytest.mark.parametrize(("name", "value"), NONSENSE)
def test_nonsense_is_refused_by_name_and_without_its_value(name, value):
    told = refusal(**{f"RELEVO_{name}": value})
    assert told.startswith(f"RELEVO_{name}: ")
    assert SECRET not in told
    assert "\n" not in told


def test_every_setting_that_can_be_wrong_was_tried():
    # Any text, and any file name, may be right.
    free = {"http_host", "ops_host", "recipient_hash_key", "smtp_ca_file", "webhook_ca_file"}
    assert {name.lower() for name, _ in NONSENSE} == set(Settings.model_fields) - free


def test_all_that_is_wrong_is_told_at_once_in_a_line_each():
    told = refusal(RELEVO_HTTP_PORT="x", RELEVO_LEASE_S="0", RELEVO_SMTP_URL="x").splitlines()
    assert [line.partition(":")[0] for line in told] == ["RELEVO_HTTP_PORT", "RELEVO_SMTP_URL", "RELEVO_LEASE_S"]


@pytest.mark.parametrize("name", ["RELEVO_HTTP_PROT", "RELEVO_", "RELEVO_Http_Port", "RELEVO_http_port"])
def test_a_name_that_is_no_setting_is_refused(name):
    assert refusal(**{name: SECRET}) == f"{name} is not a setting; the README lists them all"


def test_the_settings_of_the_stack_disturb_no_service():
    assert load_settings(dict.fromkeys(STACK_SETTINGS, "1")) == Settings()
    assert not {name.removeprefix("RELEVO_").lower() for name in STACK_SETTINGS} & set(Settings.model_fields)


def test_settings_do_not_change_after_the_start():
    with pytest.raises(ValueError, match="frozen"):
        Settings().http_port = 1


def test_production_needs_what_development_has_defaults_for():
    with pytest.raises(ConfigurationError, match=r"^RELEVO_API_KEYS must be set when RELEVO_PROFILE is production: "):
        load_settings({}).require("api_keys", "mail_from")
    with pytest.raises(ConfigurationError, match=r"^RELEVO_MAIL_FROM must be set"):
        load_settings({"RELEVO_API_KEYS": f"shop:{KEY}"}).require("api_keys", "mail_from")
    load_settings({"RELEVO_API_KEYS": f"shop:{KEY}", "RELEVO_MAIL_FROM": "a@b.org"}).require("api_keys", "mail_from")
    load_settings({"RELEVO_PROFILE": "development"}).require("api_keys", "contact_recipients", "mail_from")


def test_the_defaults_of_development_are_addresses_that_reach_nobody():
    settings = load_settings({"RELEVO_PROFILE": "development"})
    assert {address.rpartition(".")[2] for address in (settings.sender_address, *settings.contact_addresses)} == {
        "test"
    }


@pytest.mark.parametrize(
    ("url", "host", "port", "mode", "user", "password"),
    [
        ("smtp://127.0.0.1:1025", "127.0.0.1", 1025, SmtpMode.PLAIN, None, None),
        ("smtp://relay", "relay", 25, SmtpMode.PLAIN, None, None),
        ("smtp://[::1]:1025/", "::1", 1025, SmtpMode.PLAIN, None, None),
        ("smtp://relay?starttls=required", "relay", 587, SmtpMode.STARTTLS, None, None),
        ("smtp://u:p@relay:25?starttls=required", "relay", 25, SmtpMode.STARTTLS, "u", "p"),
        ("smtps://relay", "relay", 465, SmtpMode.TLS, None, None),
        ("smtps://u%40b.org:p%2F%3A%40%23%3Fw@relay:2465", "relay", 2465, SmtpMode.TLS, "u@b.org", "p/:@#?w"),
        ("smtp://u:p@localhost:1025", "localhost", 1025, SmtpMode.PLAIN, "u", "p"),
        ("smtp://u:p@127.0.0.1", "127.0.0.1", 25, SmtpMode.PLAIN, "u", "p"),
        ("smtp://u:p@[::1]", "::1", 25, SmtpMode.PLAIN, "u", "p"),
        ("smtp://RELAY.example.org", "relay.example.org", 25, SmtpMode.PLAIN, None, None),
    ],
)
def test_a_relay_address_is_read(url, host, port, mode, user, password):
    found = RelayAddress.parse(url)
    assert (found.host, found.port, found.mode, found.user, found.password) == (host, port, mode, user, password)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must look like"),
        ("relay:25", "must look like"),
        ("http://relay", "must look like"),
        ("smtp://", "must look like"),
        ("smtp://:25", "must look like"),
        ("smtp://relay:0", "must look like"),
        ("smtp://relay:99999", "must look like"),
        ("smtp://[::1", "must look like"),
        ("smtps://user:canary/pass@relay", "must look like"),
        ("smtps://user:12/canary@relay", "must look like"),
        ("smtps://user:12#canary@relay", "must look like"),
        ("smtps://user:canary\u2100@relay", "must look like"),
        ("smtps://user:can[ary]@relay", "must look like"),
        ("smtps://user:12?canary@relay", "the only option is"),
        ("smtp://relay?starttls=no", "the only option is"),
        ("smtp://relay?starttls", "the only option is"),
        ("smtp://relay?tls=1", "the only option is"),
        ("smtps://relay?starttls=required", "encrypted from the first byte"),
        ("smtps://user@relay", "both user and password"),
        ("smtps://user:@relay", "both user and password"),
        ("smtps://:canary@relay", "both user and password"),
        ("smtp://:canary@relay", "both user and password"),
        ("smtp://user:canary@relay:587", "in clear"),
        ("smtp://user:canary@127.0.0.1.evil.org", "in clear"),
        ("smtp://user:canary@10.0.0.1", "in clear"),
    ],
)
def test_a_relay_address_that_is_none_or_dangerous_is_refused_without_the_password(url, why):
    with pytest.raises(ValueError, match=why) as caught:
        RelayAddress.parse(url)
    assert "canary" not in str(caught.value)
    told = refusal(RELEVO_SMTP_URL=url or "x")
    assert told.startswith("RELEVO_SMTP_URL: ")
    assert "canary" not in told
