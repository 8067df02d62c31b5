"""Peers: the address that a request comes from, also behind proxies. Nobody else's word is taken for it."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from multidict import MultiMapping

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# One line or household has that much of IPv6; who is limited by single addresses there is not limited at all.
_IPV6_PREFIX_BITS = 64


class Peers:
    """
    Finds the address of who asks.

    Args:
        trusted_proxies: networks such as 10.0.0.0/8 whose X-Forwarded-For is believed; nobody else's is, because
            anybody can send one.
    """

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted: tuple[Network, ...] = tuple(ip_network(each) for each in trusted_proxies)

    def address_of(self, headers: MultiMapping[str], peer: str | None) -> Address | None:
        """
        Return the last address on the way here that is not a trusted proxy's; None: the peer has no IP address.

        Every proxy writes who it heard from at the end of X-Forwarded-For, so it is read from there, and no further
        than proxies are trusted: what stands before may be anybody's invention.
        Args:
            headers: of the request.
            peer: address at the other end of the connection.
        """
        address = read_address(peer or "")
        hops = [hop for line in headers.getall("X-Forwarded-For", ()) for hop in line.split(",")]
        while hops and address is not None and any(address in network for network in self._trusted):
            before = read_address(hops.pop())
            if before is None:
                break
            address = before
        return address


def read_address(text: str) -> Address | None:
    """Return the address that *text* is, with or without a port; None: it is none."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare)
    except ValueError:
        return None
    # The same machine, as a socket for both families names it.
    return getattr(address, "ipv4_mapped", None) or address


def household_of(address: Address | None) -> str:
    """Return the text that stands for everybody who may share *address*."""
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 128)).supernet(new_prefix=_IPV6_PREFIX_BITS))
    return str(address)
