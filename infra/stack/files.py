"""A file that is either the old one or the new one, whoever reads it and whenever the power goes."""

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """
    Replace *path* by *text* in one step, readable for this user only.

    Raises:
        OSError: no room, or no right to; the old file is untouched.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
