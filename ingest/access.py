"""Access: which client a caller is, from its key or, on somebody's own machine, from where it calls."""

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from infra.settings import LOCAL_CLIENT
from ingest.problems import ProblemError


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@lru_cache(maxsize=1024)
def _on_loopback(peer: str | None) -> bool:
    try:
        return peer is not None and ip_address(peer).is_loopback
    except ValueError:
        return False


def _forwarded(headers: Mapping[str, str]) -> bool:
    # Through a proxy everybody's peer is the proxy, which may well be on this machine.
    return "X-Forwarded-For" in headers or "Forwarded" in headers


class Access:
    """
    Decides who calls.

    Args:
        keys_by_client: the keys of each client, in clear; only their hashes are kept.
        open_on_loopback: whether a caller on this machine that sends no key is the client "local".
    """

    def __init__(self, keys_by_client: Mapping[str, tuple[str, ...]], *, open_on_loopback: bool) -> None:
        self._clients = [(client, _hash(key)) for client, keys in keys_by_client.items() for key in keys]
        self._open_on_loopback = open_on_loopback

    def client_of(self, headers: Mapping[str, str], peer: str | None) -> str:
        """
        Return the name of the client.

        Args:
            headers: of the request; names in any case.
            peer: address at the other end of the connection.
        Raises:
            ProblemError: unauthorized; the same whether there is no key or an unknown one.
        """
        authorization = headers.get("Authorization")
        if authorization is None and self._open_on_loopback and _on_loopback(peer) and not _forwarded(headers):
            return LOCAL_CLIENT
        scheme, _, key = (authorization or "").partition(" ")
        given = _hash(key.strip())
        found = None
        # All of them, always: how long it takes tells nothing about which one matched, or how far.
        for client, known in self._clients:
            if hmac.compare_digest(given, known):
                found = client
        if found is None or scheme.lower() != "bearer":
            raise ProblemError("unauthorized")
        return found
