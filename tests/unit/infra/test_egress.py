"""Where a request may go that somebody else asked for: addresses are judged, not names."""

import asyncio
import socket
import ssl
from ipaddress import ip_network

import aiohttp
import pytest

from infra.egress import Egress, ForbiddenAddressError, open_egress
from infra.settings import Settings

INSIDE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.0.10",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "168.63.129.16",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.1.2.3",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "not an address",
    "",
]
OUTSIDE = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]


def answering(*addresses):
    """Return a lookup that answers so, whatever it is asked."""

    def lookup(_host, port, _family):
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    return lookup


@pytest.mark.parametrize("address", INSIDE)
def test_nobody_is_sent_inside(address):
    assert not Egress(()).allows(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_what_is_public_may_be_reached(address):
    assert Egress(()).allows(address)


def test_a_network_of_ones_own_may_be_opened_and_nothing_beside_it():
    egress = Egress((ip_network("10.20.0.0/16"),))
    assert egress.allows("10.20.3.4")
    assert egress.allows("::ffff:10.20.3.4")
    assert not egress.allows("10.21.0.1")
    assert not egress.allows("127.0.0.1")


def test_only_in_development_the_loopback_may_be_reached():
    assert open_egress(Settings(profile="development")).allows("127.0.0.1")
    assert not open_egress(Settings()).allows("127.0.0.1")
    assert not open_egress(Settings(profile="development")).allows("10.0.0.1")
    assert open_egress(Settings(webhook_networks=("10.0.0.0/8",))).allows("10.0.0.1")


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "::/0", "8.8.8.0/24", "169.254.0.0/16", "fe80::/10", "10.0.0.1/8", "x"]
)
def test_no_setting_opens_everything_or_the_services_of_a_cloud(network):
    with pytest.raises(ValueError, match="each must be"):
        Settings(webhook_networks=(network,))


async def test_one_address_inside_among_public_ones_refuses_the_host():
    egress = Egress((), lookup=answering("8.8.8.8", "10.0.0.1"))
    with pytest.raises(ForbiddenAddressError) as refused:
        await egress.resolve("both.example.com", 443)
    assert "10.0.0.1" not in str(refused.value)


async def test_a_host_that_resolves_to_public_addresses_is_told_with_them():
    egress = Egress((), lookup=answering("8.8.8.8", "2606:4700::1111"))
    assert [each["host"] for each in await egress.resolve("hooks.example.com", 443)] == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0x7f.1"])
async def test_spellings_of_the_loopback_that_only_a_resolver_understands_do_not_get_by(host):
    # By the real resolver: whichever of these it understands, it understands as an address inside.
    with pytest.raises(OSError):
        await Egress(()).resolve(host, 443)


async def test_a_host_without_addresses_or_with_an_impossible_name_is_no_bug():
    with pytest.raises(OSError):
        await Egress((), lookup=answering()).resolve("none.example.com", 443)
    with pytest.raises(OSError):
        await Egress(()).resolve("a..example.com", 443)


@pytest.fixture
async def inside():
    """A server on the loopback that counts who came."""
    came = []

    async def serve(_reader, writer):
        came.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], came
    server.close()
    await server.wait_closed()


async def test_who_answers_publicly_first_and_inside_afterwards_gets_no_connection(inside):
    port, came = inside
    public, private = answering("8.8.8.8"), answering("127.0.0.1")
    lookups = iter([public, private])

    def lookup(*asked):
        return next(lookups)(*asked)

    egress = Egress((), lookup=lookup)
    await egress.resolve("rebinding.example.com", port)  # when it was set
    async with aiohttp.ClientSession(connector=egress.connector(ssl.create_default_context())) as session:
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await session.post(f"http://rebinding.example.com:{port}/")
    assert isinstance(refused.value.os_error, ForbiddenAddressError)
    assert came == []


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433"])
async def test_a_host_that_is_an_address_inside_gets_no_connection(inside, host):
    port, came = inside
    async with aiohttp.ClientSession(connector=Egress(()).connector(ssl.create_default_context())) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"http://{host}:{port}/")
    assert came == []


async def test_where_the_loopback_is_open_the_same_connection_is_made(inside):
    port, came = inside
    egress = Egress((ip_network("127.0.0.0/8"),))
    async with aiohttp.ClientSession(connector=egress.connector(ssl.create_default_context())) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.post(f"http://127.0.0.1:{port}/")  # it is closed without an answer
    assert len(came) >= 1
