"""Names of sources: where a message came from, and where one can be sent. Uses only the standard library.

``udp:192.0.2.1:9012`` is an address of datagrams, ``p2p:12D3KooW…`` a libp2p peer. Peers, budgets, events and the
address book have these names as keys.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Final

_IPV6_GROUP_BITS: Final = 64
_EVERYBODY: Final = ("udp:255.255.255.255:", "udp:[ff")


class Scheme(StrEnum):
    """The transport of a source."""

    UDP = "udp"
    P2P = "p2p"


_P2P: Final = "p2p:"
_UDP: Final = "udp:"
GOSSIP: Final = "p2p:*"
"""Stands for all peers of the libp2p network together: what one of them publishes reaches all."""


def udp_source(address: str) -> str:
    """The source of datagrams from ``host:port``."""
    return _UDP + address


def p2p_source(peer: str) -> str:
    """The source of messages of a libp2p peer."""
    return _P2P + peer


def is_p2p(source: str) -> bool:
    """True for a libp2p peer, and for ``GOSSIP``."""
    return source.startswith(_P2P)


def is_udp(source: str) -> bool:
    """True for an address of datagrams."""
    return source.startswith(_UDP)


def scheme_of(source: str) -> Scheme:
    """The scheme of a source."""
    return Scheme.P2P if source.startswith(_P2P) else Scheme.UDP


def bare(source: str) -> str:
    """A source without its scheme: ``host:port`` or a peer id."""
    return source[len(_UDP) :] if source.startswith((_UDP, _P2P)) else source


def for_everybody(source: str) -> bool:
    """True for the broadcast address, for multicast addresses of IPv6, and for ``GOSSIP``: they are nobody's own."""
    return source.startswith(_EVERYBODY) or source == GOSSIP


def host_of(source: str) -> str:
    """The source without its port: an IP address, or a peer."""
    return source.rpartition(":")[0] if is_udp(source) else source


def group_of(source: str) -> str:
    """The group of sources that one party can easily own: all ports of an IPv4 address, an IPv6 /64 prefix, one peer.

    Any other text is a group of its own.
    """
    host = host_of(source)
    inner = bare(host)
    if not inner.startswith("["):
        return host or source
    try:
        address = ipaddress.IPv6Address(inner.strip("[]").partition("%")[0])
    except ValueError:
        return host
    return f"{_UDP}{int(address) >> (128 - _IPV6_GROUP_BITS):x}::/{_IPV6_GROUP_BITS}"
