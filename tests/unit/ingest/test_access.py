"""Access: no key, no entry, except on one's own machine."""

import pytest
from multidict import CIMultiDict

from ingest.access import Access
from ingest.problems import ProblemError

KEYS = {"billing": ("k" * 20, "l" * 20), "shop": ("m" * 20,)}


def client_of(access, peer="10.0.0.1", **headers):
    return access.client_of(CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), peer)


@pytest.mark.parametrize(
    ("key", "client"), [("k" * 20, "billing"), ("l" * 20, "billing"), ("m" * 20, "shop")], ids=["old", "new", "other"]
)
def test_a_key_says_which_client_it_is(key, client):
    assert client_of(Access(KEYS, open_on_loopback=False), Authorization=f"Bearer {key}") == client


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nobody",
        f"Basic {'k' * 20}",
        "k" * 20,
        f"Bearer {'k' * 19}",
        "Bearer \udcff",
    ],
)
@pytest.mark.parametrize("open_on_loopback", [True, False])
def test_everything_else_is_refused_alike(authorization, open_on_loopback):
    headers = {} if authorization is None else {"Authorization": authorization}
    with pytest.raises(ProblemError) as refused:
        client_of(Access(KEYS, open_on_loopback=open_on_loopback), **headers)
    assert refused.value.code == "unauthorized"


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1"])
def test_on_ones_own_machine_no_key_is_needed_in_development(peer):
    assert client_of(Access({}, open_on_loopback=True), peer) == "local"
    with pytest.raises(ProblemError):
        client_of(Access({}, open_on_loopback=False), peer)


@pytest.mark.parametrize("peer", [None, "", "10.0.0.1", "::ffff:10.0.0.1", "localhost"])
def test_elsewhere_it_is(peer):
    with pytest.raises(ProblemError):
        client_of(Access({}, open_on_loopback=True), peer)


@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded"])
def test_behind_a_proxy_on_this_machine_it_is_too(header):
    with pytest.raises(ProblemError):
        client_of(Access({}, open_on_loopback=True), "127.0.0.1", **{header: "127.0.0.1"})


def test_a_wrong_key_is_refused_even_where_none_is_needed():
    with pytest.raises(ProblemError):
        client_of(Access(KEYS, open_on_loopback=True), "127.0.0.1", Authorization="Bearer nobody")
