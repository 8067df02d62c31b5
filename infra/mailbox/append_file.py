"""A file that only grows, and that holds either all of a piece or nothing of it."""

import contextlib
import os
from pathlib import Path


class AppendFile:
    """
    Pieces of bytes, one after the other.

    Delivery: when `append` has returned, the piece is with the operating system and survives any death of this
    process. It is not forced to disk: a machine that loses power may lose the last seconds.
    """

    def __init__(self, path: Path) -> None:
        """
        Open the file; make it when it is not there.

        Raises:
            OSError: it cannot be read and written.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size_bytes = os.fstat(self._file).st_size

    def append(self, piece: bytes) -> int:
        """
        Add a piece.

        Returns:
            Where it begins.
        Raises:
            OSError: nothing of it was kept; most often the disk is full.
        """
        offset = self.size_bytes
        written = 0
        try:
            # A disk that fills up takes a part, and refuses only the next write.
            while written < len(piece):
                written += os.write(self._file, memoryview(piece)[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self.truncate(offset)
            raise
        self.size_bytes = offset + written
        return offset

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a piece."""
        return os.pread(self._file, size_bytes, offset)

    def truncate(self, size_bytes: int) -> None:
        """Forget everything after the first *size_bytes*."""
        os.ftruncate(self._file, size_bytes)
        self.size_bytes = size_bytes

    def fileno(self) -> int:
        """Return the descriptor, for a lock."""
        return self._file

    def close(self) -> None:
        """Close it. No other method may be called afterwards."""
        os.close(self._file)
