"""Whose word about an address counts: nobody tells of a network that he is not in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.p2p.scope import Scope, scope_of, scope_of_text, told
from crabnet.protocol.identity import Signer
from crabnet.settings.multiaddr import parse_multiaddr

PEER, OTHER = Signer(b"p" * 32).node_id, Signer(b"q" * 32).node_id
PLACES = {
    Scope.LOOPBACK: ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip6/::ffff:127.0.0.1/tcp/1"],
    Scope.LINK: ["/ip4/169.254.169.254/tcp/80", "/ip6/fe80::1/tcp/1"],
    Scope.PRIVATE: ["/ip4/10.0.0.1/tcp/1", "/ip4/192.168.1.1/tcp/1", "/ip4/100.64.0.1/tcp/1", "/ip6/fd00::1/tcp/1"],
    Scope.PUBLIC: ["/ip4/1.1.1.1/tcp/1", "/ip6/2606:4700::1/tcp/1", "/ip4/1.1.1.1/udp/1/quic-v1"],
}
NOWHERE = [
    "/ip6/2002:7f00:1::/tcp/1",
    "/ip6/64:ff9b::7f00:1/tcp/1",
    "/ip4/0.0.0.0/tcp/1",
    "/ip6/::/tcp/1",
    "/ip4/224.0.0.1/tcp/1",
    "/ip4/255.255.255.255/tcp/1",
    "/dns/a.b/tcp/1",
]


@pytest.mark.parametrize(("scope", "text"), [(scope, text) for scope, texts in PLACES.items() for text in texts])
def test_scopes(scope: Scope, text: str) -> None:
    assert scope_of(parse_multiaddr(text)) is scope
    for teller in Scope:
        assert told([text], PEER, teller) == ([f"{text}/p2p/{PEER}"] if scope >= teller else [])


@pytest.mark.parametrize(
    "text", [*NOWHERE, "", "x", "/ip4/1.1.1.1/tcp/0", f"/ip4/1.1.1.1/tcp/1/p2p/{OTHER}", "/" * 600]
)
def test_what_is_no_address_of_this_peer_never_counts(text: str) -> None:
    assert told([text], PEER, Scope.LOOPBACK) == []


def test_a_relayed_address_counts_as_that_of_its_relay() -> None:
    inside, outside = (f"/ip4/{host}/tcp/1/p2p/{OTHER}/p2p-circuit" for host in ("10.0.0.1", "1.1.1.1"))
    assert told([f"{inside}/p2p/{PEER}", f"{outside}/p2p/{PEER}"], PEER, Scope.PUBLIC) == [f"{outside}/p2p/{PEER}"]


@pytest.mark.parametrize("text", ["", "?", f"/ip4/127.0.0.1/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}"])
def test_who_is_connected_in_a_way_that_tells_nothing_counts_as_far_away(text: str) -> None:
    assert scope_of_text(text) is Scope.PUBLIC


@given(st.lists(st.one_of(st.text(), st.sampled_from([text for texts in PLACES.values() for text in texts]))))
def test_any_list_is_bounded(texts: list[str]) -> None:
    found = told(texts, PEER, Scope.LOOPBACK)
    assert len(found) == len(set(found)) <= limits.P2P_ADDRESSES_PER_PEER_MAX
    assert all(parse_multiaddr(each).peer == PEER for each in found)
