"""Nothing that is not in the list, and nothing with another sum, ever reaches Kafka's class path."""

import hashlib
import re

import pytest

from infra.stack import jars
from schemas.errors import ConfigurationError

GOOD = b"the right jar"


@pytest.fixture
def jar():
    return jars.Jar("org.example", "thing", "1.0", hashlib.sha256(GOOD).hexdigest())


@pytest.fixture
def repository(monkeypatch):
    """A repository that delivers what the test says, and counts."""

    class Repository:
        delivers = GOOD
        asked = 0

        def fetch(self, jar, folder):
            self.asked += 1
            path = folder / jar.file_name
            path.write_bytes(self.delivers)
            return path

    repository = Repository()
    monkeypatch.setattr(jars, "_fetch_one", repository.fetch)
    return repository


def fetch(jar, folder):
    return jars.fetch_jars(lambda _text: None, folder=folder, jars=(jar,))


def test_a_jar_is_fetched_once(jar, repository, tmp_path):
    assert fetch(jar, tmp_path) == (tmp_path / "thing-1.0.jar",)
    assert fetch(jar, tmp_path) == (tmp_path / "thing-1.0.jar",)
    assert repository.asked == 1


def test_a_download_with_another_sum_is_refused_and_removed(jar, repository, tmp_path):
    repository.delivers = b"tampered with"
    with pytest.raises(ConfigurationError, match=r"thing-1\.0\.jar .* another SHA-256 sum"):
        fetch(jar, tmp_path)
    assert not list(tmp_path.glob("**/*.jar"))


def test_a_jar_that_was_changed_in_the_cache_is_fetched_anew(jar, repository, tmp_path):
    (tmp_path / jar.file_name).write_bytes(b"changed later")
    (path,) = fetch(jar, tmp_path)
    assert path.read_bytes() == GOOD


def test_a_full_disk_is_said_in_a_sentence(jar, monkeypatch, tmp_path):
    def full(_jar, _folder):
        raise OSError(28, "No space left on device", "thing")

    monkeypatch.setattr(jars, "_fetch_one", full)
    with pytest.raises(ConfigurationError, match="is full"):
        fetch(jar, tmp_path)


def test_the_list_pins_every_jar_by_version_and_sum():
    listed = jars.read_list()
    assert {(jar.artifact, jar.version) for jar in listed} >= {("kafka_2.13", "4.3.1"), ("log4j-slf4j-impl", "2.25.4")}
    assert all(re.fullmatch(r"[0-9a-f]{64}", jar.sha256) for jar in listed)
    assert len({jar.artifact for jar in listed}) == len(listed)
