"""CORS: which pages on other origins may read the answers of the contact form (Fetch standard, section 3.2)."""

import re
from collections.abc import Iterable

_LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")

_FOR_PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Content-Type, Idempotency-Key, traceparent",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "Location, Retry-After, X-Request-ID, Idempotency-Replayed"


class Cors:
    """
    Answers for exactly the origins that are configured; never for `*`, never with credentials.

    Args:
        origins: as browsers spell them, `https://www.example.org`.
        local: whether pages on this machine may call too, on any port.
    """

    def __init__(self, origins: Iterable[str], *, local: bool) -> None:
        self._origins = frozenset(origins)
        self._local = local

    def headers(self, origin: str | None, *, preflight: bool = False) -> dict[str, str]:
        """Return the headers for an answer to a page on *origin*; errors need them as much as successes."""
        # Whoever caches the answer must not hand one origin's to another, so always.
        found = {"Vary": "Origin"}
        if origin is not None and self._allows(origin):
            found["Access-Control-Allow-Origin"] = origin
            if preflight:
                found.update(_FOR_PREFLIGHT)
            else:
                found["Access-Control-Expose-Headers"] = _EXPOSED
        return found

    def _allows(self, origin: str) -> bool:
        return origin in self._origins or (self._local and _LOCAL_ORIGIN.fullmatch(origin) is not None)
