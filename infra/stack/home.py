"""Where everything of one local stack lies. Two stacks with different homes share nothing but the Kafka jars."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import ConfigurationError

CHECKOUT = Path(__file__).resolve().parents[2]

# A fresh database cluster takes 40 MB and its write-ahead log grows to 80 MB; Kafka and Valkey begin small.
FREE_BYTES_MIN = 250 * 1024 * 1024

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def with_checkout(environment: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* such that a Python started with it finds this checkout, from whatever folder."""
    search_path = [str(CHECKOUT), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(search_path), "PYTHONUNBUFFERED": "1"}


class Home:
    """The folder of one stack, `.relevo` unless RELEVO_HOME names another."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.stack_file = self.root / "stack.json"
        self.wanted_file = self.root / "wanted.json"
        self.keeper_lock = self.root / "keeper.lock"
        self.up_lock = self.root / "up.lock"

    def folder(self, name: str) -> Path:
        """Return the folder that the process *name* keeps its data in and runs in."""
        return self.root / name

    def log(self, name: str) -> Path:
        """Return the log file of the process *name*."""
        return self.root / "logs" / f"{name}.log"

    def make(self) -> None:
        """
        Make the folder, for this user only: it holds a password, mails and logs.

        Raises:
            ConfigurationError: it cannot be written to, or the disk is full; says what to do.
        """
        with sentences_about(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if self.root.stat().st_uid == os.geteuid():
                self.root.chmod(0o700)
            (self.root / "logs").mkdir(exist_ok=True)
            probe = self.root / ".probe"
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
        free = shutil.disk_usage(self.root).free
        if free < FREE_BYTES_MIN:
            raise ConfigurationError(
                f"The disk that holds {self.root} is nearly full: {free // 2**20} MB are free and the stack needs at "
                f"least {FREE_BYTES_MIN // 2**20} MB. Free some space, or set RELEVO_HOME to a folder on another disk."
            )


class sentences_about:  # noqa: N801 -- reads as a verb where it is used, like contextlib's own
    """Turn the errors of a full or unwritable disk into a sentence that says what to do."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Raise the sentence in place of the error."""
        if isinstance(error, OSError) and (sentence := disk_sentence(error, self._place)):
            raise ConfigurationError(sentence) from error


def disk_sentence(error: OSError, place: Path) -> str | None:
    """Return what to do about *error*, or None when it is not about the disk."""
    if error.errno in _DISK_FULL:
        return f"The disk that holds {place} is full. Free some space, or set RELEVO_HOME to a folder on another disk."
    if error.errno in _NOT_WRITABLE:
        return (
            f"{place} cannot be written to ({error.strerror}: {error.filename}). "
            "Give this user the right to, or set RELEVO_HOME to a folder of yours."
        )
    return None
