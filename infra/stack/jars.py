"""The jars of Kafka: pinned coordinates, fetched once for this user, each checked against its SHA-256 sum."""

import fcntl
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from infra.stack.home import sentences_about
from schemas.errors import ConfigurationError

JAR_LIST = Path(__file__).with_name("kafka-jars.txt")

_TRIES = 3
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the list."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name that the repository gives it."""
        return f"{self.artifact}-{self.version}.jar"


def read_list(path: Path = JAR_LIST) -> tuple[Jar, ...]:
    """Read the pinned jars."""
    jars = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return tuple(jars)


def cache_folder() -> Path:
    """
    Return the folder of the jars: one for all checkouts and homes of this user, because they are the same files.

    It follows XDG_CACHE_HOME, and a user without a home folder gets one in the folder for temporary files.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    home = Path(given) if given else Path.home() / ".cache"
    if not given and not os.access(Path.home(), os.W_OK):
        home = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    return home / "relevo" / "jars"


def fetch_jars(
    say: Callable[[str], None], *, folder: Path | None = None, jars: tuple[Jar, ...] | None = None
) -> tuple[Path, ...]:
    """
    Return all jars as files, each with the sum that the list demands; fetch those that are missing.

    Every file is checked each time, also when it was there: 44 MB take a tenth of a second.

    Args:
        say: told how far it is, in a few words.
    Raises:
        ConfigurationError: no network, a full disk, or a file with another sum, which is then removed.
    """
    folder, jars = folder or cache_folder(), jars or read_list()
    with sentences_about(folder):
        folder.mkdir(parents=True, exist_ok=True)
        missing = [jar for jar in jars if not _is_right(folder / jar.file_name, jar)]
        if missing:
            # Two runs at once would write the same files; the second waits, and then finds nothing to do.
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                missing = [jar for jar in missing if not _is_right(folder / jar.file_name, jar)]
                _fetch(missing, folder, say)
    return tuple(folder / jar.file_name for jar in jars)


def _is_right(path: Path, jar: Jar) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def _fetch(jars: list[Jar], folder: Path, say: Callable[[str], None]) -> None:
    done = 0
    # Beside the folder: the downloader writes straight to the final name, and half a jar must never be found there.
    with tempfile.TemporaryDirectory(dir=folder) as fresh, ThreadPoolExecutor(_AT_ONCE) as pool:
        say(f"fetching Kafka: 0 of {len(jars)} jars")
        pending = [pool.submit(_fetch_one, jar, Path(fresh)) for jar in jars]
        try:
            for jar, future in zip(jars, pending, strict=True):
                path = future.result()
                _demand_right(path, jar)
                path.replace(folder / jar.file_name)
                done += 1
                say(f"fetching Kafka: {done} of {len(jars)} jars")
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _demand_right(path: Path, jar: Jar) -> None:
    if not _is_right(path, jar):
        path.unlink(missing_ok=True)
        raise ConfigurationError(
            f"{jar.file_name} as downloaded has another SHA-256 sum than {JAR_LIST.name} demands, so it was removed. "
            "Try again; if it stays so, whoever answers (a proxy, or the repository named by "
            "RELEVO_MAVEN_REPOSITORY) delivers another file."
        )


def _fetch_one(jar: Jar, folder: Path) -> Path:
    # Imported only when something must be fetched: the import takes half a second.
    from jgo.maven import MavenContext  # noqa: PLC0415 -- only a first run needs it

    mirror = os.environ.get("RELEVO_MAVEN_REPOSITORY")
    repositories = {"mirror": mirror.rstrip("/")} if mirror else None
    context = MavenContext(repo_cache=folder, remote_repos=repositories, timeout=30)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _TRIES + 1):
        try:
            return Path(artifact.resolve())
        except OSError as error:  # requests' errors are OSErrors, too
            for part in folder.glob(f"**/{jar.file_name}"):
                part.unlink()  # half a file would pass for the whole one at the next try
            if error.errno is not None:  # the disk's, not the network's
                raise
            if attempt == _TRIES:
                raise _unreachable(jar, mirror) from error
            time.sleep(attempt)
        except RuntimeError as error:
            raise ConfigurationError(
                f"The Maven repository has no {jar.file_name}"
                + (" (RELEVO_MAVEN_REPOSITORY names it; is the address right?)." if mirror else ".")
            ) from error
    raise AssertionError("the loop returns or raises")


def _unreachable(jar: Jar, mirror: str | None) -> ConfigurationError:
    way_out = (
        "RELEVO_MAVEN_REPOSITORY names it; is the address right?"
        if mirror
        else "Connect this machine to the network, or set RELEVO_MAVEN_REPOSITORY to the address of a mirror."
    )
    return ConfigurationError(
        f"The first start downloads Kafka (44 MB) and the Maven repository does not answer: {jar.file_name}. "
        f"{way_out} Then run it again."
    )


if __name__ == "__main__":
    try:
        fetch_jars(lambda text: print(text, flush=True))
    except ConfigurationError as refusal:
        sys.exit(str(refusal))
