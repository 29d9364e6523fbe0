"""Multicast DNS: what is announced, and what an answer of anybody on the link may say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.p2p.mdns import found_in, local_of, service_type, txt_of
from crabnet.protocol.identity import Signer
from crabnet.settings.multiaddr import parse_multiaddr

OWN, PEER = Signer(b"o" * 32).node_id, Signer(b"p" * 32).node_id
LOCAL = f"/ip4/192.168.1.2/tcp/9012/p2p/{PEER}"


def txt(*strings: bytes) -> bytes:
    return b"".join(bytes([len(each)]) + each for each in strings)


def test_what_is_announced_is_found() -> None:
    announced = local_of(["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.2/tcp/9012", "/ip4/1.1.1.1/tcp/1"], PEER)
    assert announced == [LOCAL]
    assert found_in(txt_of(announced), OWN) == [(LOCAL, PEER)]


def test_nothing_is_announced_where_only_loopback_is_listened_on() -> None:
    assert local_of(["/ip4/127.0.0.1/tcp/9012", "/ip6/::1/tcp/9012"], OWN) == []


def test_namespaces_and_private_networks_have_services_of_their_own() -> None:
    kinds = {service_type(name, key) for name in ("default", "other") for key in (b"", b"k" * 32)}
    assert len(kinds) == 4
    assert all(len(kind.split(".")[0]) <= 16 for kind in kinds), "RFC 6763: at most 15 characters and the underscore"


@pytest.mark.parametrize(
    "string",
    [
        b"",
        b"dnsaddr=",
        b"dnsaddr=/ip4/192.168.1.2/tcp/9012",
        f"dnsaddr=/ip4/192.168.1.2/tcp/9012/p2p/{OWN}".encode(),
        f"dnsaddr=/ip4/192.168.1.2/tcp/0/p2p/{PEER}".encode(),
        f"dnsaddr=/ip4/127.0.0.1/tcp/22/p2p/{PEER}".encode(),
        f"dnsaddr=/ip4/1.1.1.1/tcp/22/p2p/{PEER}".encode(),
        f"dnsaddr=/dns4/bank.example/tcp/22/p2p/{PEER}".encode(),
        f"dnsaddr=/dnsaddr/bank.example/p2p/{PEER}".encode(),
        f"dnsaddr=/ip4/192.168.1.2/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}".encode(),
        f"other=/ip4/192.168.1.2/tcp/9012/p2p/{PEER}".encode(),
        b"dnsaddr=\xff\xfe",
    ],
)
def test_strings_that_do_not_count(string: bytes) -> None:
    assert found_in(txt(string, b"dnsaddr=" + LOCAL.encode()), OWN) == [(LOCAL, PEER)]


def test_a_long_record_is_cut() -> None:
    strings = [f"dnsaddr=/ip4/10.0.0.1/tcp/{port}/p2p/{PEER}".encode() for port in range(1, 1_000)]
    assert len(found_in(txt(*strings), OWN)) == limits.P2P_ADDRESSES_PER_PEER_MAX
    assert found_in(None, OWN) == []


@given(st.binary(max_size=2_000))
def test_any_record_is_bounded(data: bytes) -> None:
    for address, peer in found_in(data, OWN):
        assert parse_multiaddr(address).peer == peer
