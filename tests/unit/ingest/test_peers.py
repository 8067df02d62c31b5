"""Who called: the address that no trusted proxy has, and never what a stranger says of itself."""

from ipaddress import ip_address

import pytest
from multidict import CIMultiDict

from ingest.peers import Peers, household_of, read_address

PROXIES = ("10.0.0.0/8", "192.0.2.7", "2001:db8:1::/48")


def address_of(peer, *forwarded, trusted=PROXIES):
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    found = Peers(trusted).address_of(headers, peer)
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.5", (), "203.0.113.5"),
        ("203.0.113.5", ("198.51.100.9",), "203.0.113.5"),  # a stranger says so
        ("10.1.2.3", (), "10.1.2.3"),
        ("10.1.2.3", ("198.51.100.9",), "198.51.100.9"),
        ("10.1.2.3", ("1.1.1.1, 198.51.100.9",), "198.51.100.9"),  # invented by who called the proxy
        ("10.1.2.3", ("1.1.1.1, 198.51.100.9, 10.9.9.9, 192.0.2.7",), "198.51.100.9"),
        ("10.1.2.3", ("1.1.1.1", "198.51.100.9", "10.9.9.9"), "198.51.100.9"),  # in several lines
        ("10.1.2.3", ("10.9.9.9",), "10.9.9.9"),
        ("10.1.2.3", ("198.51.100.9:4711",), "198.51.100.9"),
        ("10.1.2.3", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("2001:db8:1::5", ("2001:db8:2::9",), "2001:db8:2::9"),
        ("::ffff:10.1.2.3", ("198.51.100.9",), "198.51.100.9"),
        ("10.1.2.3", ("198.51.100.9, unknown",), "10.1.2.3"),
        ("10.1.2.3", ("198.51.100.9, unknown, 10.9.9.9",), "10.9.9.9"),
        ("10.1.2.3", ("",), "10.1.2.3"),
        ("10.1.2.3", (",,,",), "10.1.2.3"),
        (None, ("198.51.100.9",), None),
        ("", (), None),
    ],
)
def test_the_caller_is_the_last_one_that_no_trusted_proxy_is(peer, forwarded, found):
    assert address_of(peer, *forwarded) == found


def test_where_no_proxy_is_trusted_the_peer_is_the_caller():
    assert address_of("127.0.0.1", "198.51.100.9", trusted=()) == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "x", "1.2.3", "1.2.3.4.5", "[::1", "::1::", "1.2.3.4:x:y", "a" * 5000])
def test_what_is_no_address_is_none_and_breaks_nothing(text):
    assert read_address(text) in {None, ip_address("::1")}


def test_an_ipv6_household_is_one_caller():
    assert household_of(ip_address("2001:db8:1:2:3::4")) == household_of(ip_address("2001:db8:1:2:ffff::1"))
    assert household_of(ip_address("2001:db8:1:2::1")) != household_of(ip_address("2001:db8:1:3::1"))
    assert household_of(ip_address("203.0.113.5")) != household_of(ip_address("203.0.113.6"))
    assert household_of(None) == "None"
