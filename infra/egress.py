"""
Egress: where a request may go that somebody else asked for.

Whoever may name an address could name one inside: the metadata service of a cloud, a database, an administrator's page
(server-side request forgery, CWE-918). So addresses are judged, not names: whatever a host is called, decimal, octal or
a name of the attacker's own zone, every address that it resolves to must be public, and the socket is opened to an
address that was judged a moment before, not to one that is asked for once more (DNS rebinding).
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from infra.settings import Settings

Network = IPv4Network | IPv6Network

RESOLVE_S_MAX = 5.0
# A name server that is silent holds a thread for long; each host has one lookup under way at most.
_LOOKUPS_MAX = 32

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

# Beside what the library calls not global, and whatever its version calls so (IANA special-purpose registries).
_REFUSED: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "168.63.129.16/32",  # public by its number, the platform's own service inside Azure
            "2001::/23",  # IETF protocol assignments, Teredo among them
            "2002::/16",  # 6to4: an IPv4 address in disguise
            "2001:db8::/32",
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
_GLOBAL_IPV6 = IPv6Network("2000::/3")  # all that is assigned as global unicast, RFC 4291 2.4
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is meant

Lookup = Callable[[str, int, socket.AddressFamily], Sequence[Any]]


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[Any]:
    return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)


class ForbiddenAddressError(OSError):
    """A host is, or resolves to, an address that nobody may be sent to."""


class Egress:
    """
    Judges addresses, and opens connections to none but those that it has judged.

    Args:
        networks: that may be reached although they are not public.
        lookup: as socket.getaddrinfo for streams; blocks.
    """

    def __init__(self, networks: Sequence[Network], *, lookup: Lookup = _look_up) -> None:
        self._networks = tuple(networks)
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_LOOKUPS_MAX, thread_name_prefix="lookup")

    def allows(self, address: str) -> bool:
        """Return whether *address*, an IP address in any spelling that the socket module gives, may be reached."""
        try:
            found = _meant(ip_address(address))
        except ValueError:
            return False
        if any(found in network for network in self._networks):
            return True
        if isinstance(found, IPv6Address) and found not in _GLOBAL_IPV6:
            return False
        refused = found.is_multicast or found.is_reserved or any(found in network for network in _REFUSED)
        return found.is_global and not refused

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """
        Return the addresses of *host*, each of which may be reached.

        Raises:
            ForbiddenAddressError: one of them may not. Which one is not told: it would map the inside.
            OSError: it has none, or nobody says within RESOLVE_S_MAX (TimeoutError).
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(RESOLVE_S_MAX):
            try:
                found = await loop.run_in_executor(self._threads, self._lookup, host, port, family)
            except UnicodeError as error:
                # A label that is empty or too long for the domain name system.
                raise OSError("no host name") from error
        results = [_result(host, port, info) for info in found]
        if not all(self.allows(result["host"]) for result in results):
            raise ForbiddenAddressError("the host is, or resolves to, an address that is not public")
        if not results:
            raise OSError("the host has no address")
        return results

    def connector(self, tls: ssl.SSLContext) -> TCPConnector:
        """
        Return a connector of aiohttp that goes nowhere else.

        Raises, when it is asked for a connection: ForbiddenAddressError inside aiohttp's ClientConnectorError.
        """
        return TCPConnector(
            resolver=_Resolver(self),
            socket_factory=self._open,
            ssl=tls,
            # Each receiver's own bound is kept by whoever asks.
            limit=0,
            use_dns_cache=True,  # with it, one lookup of a host at a time
            ttl_dns_cache=10,
        )

    def close(self) -> None:
        """Wait for no lookup any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, info: Any) -> socket.socket:
        # The last word, on the very address that is connected to: hosts that are addresses never see the resolver.
        family, kind, protocol, _, address = info
        if not self.allows(address[0]):
            raise ForbiddenAddressError("the address is not public")
        return socket.socket(family, kind, protocol)


def open_egress(settings: Settings) -> Egress:
    """Return where webhooks may go, as *settings* say."""
    loopback = LOOPBACK if settings.development else ()
    return Egress((*loopback, *map(ip_network, settings.webhook_networks)))


class _Resolver(AbstractResolver):
    """How aiohttp asks."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As Egress.resolve."""
        return await self._egress.resolve(host, port, family)

    async def close(self) -> None:
        """Nothing is open."""


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the address that is really reached: IPv4 stands inside IPv6 in two forms that are routed."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _result(host: str, port: int, info: Any) -> ResolveResult:
    family, _, protocol, _, address = info
    return ResolveResult(
        hostname=host,
        host=address[0],
        port=port,
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
