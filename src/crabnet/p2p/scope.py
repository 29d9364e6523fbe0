"""How far an address reaches, and whose word about an address counts. Pure.

A peer that told this node addresses of its own network could have it connect to services there that the peer itself
does not reach. So a peer may tell only addresses that reach at least as far as the one at which it is connected.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import IntEnum

from crabnet import limits
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr


class Scope(IntEnum):
    """From where an address can be reached, the narrowest first."""

    LOOPBACK = 0
    LINK = 1
    PRIVATE = 2
    PUBLIC = 3


def scope_of(address: Multiaddr) -> Scope | None:
    """The scope of an address. None for a name, and for what is no address of a single host."""
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Scope.LOOPBACK
    if ip.is_unspecified or ip.is_multicast or ip.is_reserved:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and (ip.sixtofour is not None or ip.teredo is not None):
        return None  # an IPv4 address of any scope is inside
    if ip.is_link_local:
        return Scope.LINK
    return Scope.PUBLIC if ip.is_global else Scope.PRIVATE


def scope_of_text(text: str) -> Scope:
    """The scope of the address at which a peer is connected: the widest if it is behind a relay or not known."""
    try:
        parsed = parse_multiaddr(text)
    except Wrong:
        return Scope.PUBLIC
    found = None if parsed.via else scope_of(parsed)
    return Scope.PUBLIC if found is None else found


def told(texts: Iterable[str], peer: str, teller: Scope) -> list[str]:
    """Of the addresses that somebody tells of a peer, those that count, each with the peer's id; at most
    ``P2P_ADDRESSES_PER_PEER_MAX``.
    """
    found: dict[str, None] = {}
    for text in texts:
        if len(found) >= limits.P2P_ADDRESSES_PER_PEER_MAX:
            break
        parsed = _told(text, peer, teller)
        if parsed is not None:
            found[str(parsed)] = None
    return list(found)


def _told(text: str, peer: str, teller: Scope) -> Multiaddr | None:
    if len(text) > limits.MULTIADDR_CHARS_MAX:
        return None
    try:
        parsed = parse_multiaddr(f"{text}/p2p/{peer}" if text.endswith("/p2p-circuit") else text)
    except Wrong:
        return None
    scope = scope_of(parsed)
    if scope is None or scope < teller or not parsed.port or parsed.peer not in ("", peer):
        return None
    return parsed._replace(peer=peer)
