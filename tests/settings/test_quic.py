"""Addresses for QUIC: known, and refused by every setting that takes addresses of libp2p peers."""

from __future__ import annotations

import pytest

from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import PeerAddressKind, parse_multiaddr

QUIC = "/ip4/192.0.2.1/udp/9012/quic-v1"


def test_an_address_for_quic_is_refused_with_the_reason() -> None:
    assert str(parse_multiaddr(QUIC)) == QUIC, "peers of other implementations tell such addresses"
    with pytest.raises(Wrong, match=r"QUIC, over which libp2p 0\.8\.1 loses data: write /tcp/PORT"):
        PeerAddressKind(port_min=1).check(QUIC)
    PeerAddressKind(port_min=1).check(QUIC.replace("udp/9012/quic-v1", "tcp/9012"))
