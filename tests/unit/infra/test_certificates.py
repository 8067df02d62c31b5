"""A certificate file that cannot be used is told before a service starts: setting, file, what is wrong."""

import os
import subprocess
import sys

import pytest
import trustme

from infra.certificates import require_certificates
from infra.settings import Settings
from schemas.errors import ConfigurationError
from tests.processes import ROOT


@pytest.fixture
def files(tmp_path):
    """Good ones, one that holds something else, and one that nobody may read."""
    authority = trustme.CA()
    certificate = authority.issue_cert("relevo.test")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "other.pem").write_text("not a certificate\n")
    return tmp_path


GOOD = [
    ("ingest", {}),
    ("ingest", {"postgres_dsn": "postgresql://r@h/d?sslmode=verify-full&sslrootcert={files}/ca.pem"}),
    ("sender", {"postgres_dsn": "postgresql://r@h/d?sslcert={files}/cert.pem&sslkey={files}/key.pem"}),
    ("pipeline", {"redis_url": "rediss://h/0?ssl_ca_certs={files}/ca.pem"}),
    ("sender", {"smtp_ca_file": "{files}/ca.pem"}),
    ("feed", {"webhook_ca_file": "{files}/ca.pem"}),
    # Nobody reads them.
    ("ingest", {"smtp_ca_file": "{files}/missing"}),
    ("pipeline", {"postgres_dsn": "postgresql://r@h/d?sslmode=verify-full&sslrootcert={files}/missing"}),
    ("sender", {"postgres_dsn": "postgresql://r@h/d?sslmode=disable&sslcert={files}/missing"}),
    ("pipeline", {"redis_url": "redis://h/0?ssl_ca_certs={files}/missing"}),
]

BAD = [
    ("ingest", {"postgres_dsn": "postgresql://r@h/d?sslmode=verify-ca&sslrootcert={files}/missing"}, "sslrootcert"),
    ("sender", {"postgres_dsn": "postgresql://r@h/d?sslmode=require&sslrootcert={files}/other.pem"}, "sslrootcert"),
    ("sender", {"postgres_dsn": "postgresql://r@h/d?sslcert={files}/cert.pem&sslkey={files}/missing"}, "sslkey"),
    ("sender", {"postgres_dsn": "postgresql://r@h/d?sslcert={files}/cert.pem"}, "sslcert"),
    ("ingest", {"redis_url": "rediss://h/0?ssl_ca_certs={files}/missing"}, "ssl_ca_certs"),
    ("pipeline", {"redis_url": "rediss://h/0?ssl_certfile={files}/other.pem"}, "ssl_certfile"),
    ("sender", {"smtp_ca_file": "{files}/missing"}, "RELEVO_SMTP_CA_FILE"),
    ("feed", {"webhook_ca_file": "{files}/missing"}, "RELEVO_WEBHOOK_CA_FILE"),
    ("sender", {"smtp_ca_file": "{files}/other.pem"}, "RELEVO_SMTP_CA_FILE"),
    ("sender", {"smtp_ca_file": "{files}"}, "RELEVO_SMTP_CA_FILE"),
]


def settings(files, named):
    return Settings(**{name: value.format(files=files) for name, value in named.items()})


@pytest.mark.parametrize(("service", "named"), GOOD)
def test_what_can_be_used_and_what_nobody_reads_is_let_pass(files, service, named):
    require_certificates(service, settings(files, named))


@pytest.mark.parametrize(("service", "named", "option"), BAD)
def test_what_cannot_be_used_is_named_with_its_setting(files, service, named, option):
    with pytest.raises(ConfigurationError) as caught:
        require_certificates(service, settings(files, named))
    said = str(caught.value)
    (setting,) = named
    assert said.startswith(f"RELEVO_{setting.upper()}")
    assert option in said
    assert str(files) in said
    assert "cannot be used: " in said


def test_a_service_says_so_in_one_sentence_and_ends_with_78():
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELEVO_", "OTEL_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "sender"],
        cwd=ROOT,
        env=inherited | {"RELEVO_PROFILE": "development", "RELEVO_SMTP_CA_FILE": "/nowhere/ca.pem"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr == (
        "relevo sender: RELEVO_SMTP_CA_FILE names /nowhere/ca.pem, which cannot be used: No such file or directory. "
        "Put the certificate there in PEM format, readable for this user, or correct the setting\n"
    )
