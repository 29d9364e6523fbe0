"""Addresses of libp2p peers (https://github.com/multiformats/multiaddr), as far as this node can use them. Standard
library only, so that a wrong address is found before anything is started.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

from crabnet.settings.kinds import PORT_MAX, AddressKind, Wrong, host_and_port

_NAMES: Final = ("dns", "dns4", "dns6")
_LITERALS: Final = {"ip4": 4, "ip6": 6}
_PEER_ID: Final = re.compile(
    r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}|Qm[1-9A-HJ-NP-Za-km-z]{44}|16Uiu2HA[1-9A-HJ-NP-Za-km-z]{45}"
)
_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*\.?")


class Multiaddr(NamedTuple):
    """A parsed address. ``via`` is the address of the relay, "" for a direct one. ``peer`` is "" if it is not said."""

    host: str
    port: int
    transport: str
    """``tcp``, ``quic-v1``, or ``dnsaddr``, which stands for the addresses in a name's TXT records."""
    family: str
    """``ip4``, ``ip6``, or a kind of name."""
    peer: str = ""
    via: str = ""

    def __str__(self) -> str:
        if self.via:
            place = f"{self.via}/p2p-circuit"
        elif self.transport == "dnsaddr":
            place = f"/dnsaddr/{self.host}"
        else:
            below = f"tcp/{self.port}" if self.transport == "tcp" else f"udp/{self.port}/quic-v1"
            place = f"/{self.family}/{self.host}/{below}"
        return f"{place}/p2p/{self.peer}" if self.peer else place

    @property
    def is_loopback(self) -> bool:
        """True for an address of this machine only."""
        return self.family in _LITERALS and ipaddress.ip_address(self.host).is_loopback


def parse_multiaddr(text: str) -> Multiaddr:
    """Parse ``/ip4/192.0.2.1/tcp/9012/p2p/12D3KooW…`` and its relatives, or ``host:port``, which means TCP.

    Raises Wrong, whose text does not contain the address.
    """
    if not text.startswith("/"):
        host, port = host_and_port(text)
        return Multiaddr(host, port, "tcp", _family_of(host))
    words = text.split("/")[1:]
    if "p2p-circuit" in words:
        at = words.index("p2p-circuit")
        return _relayed(words[:at], words[at + 1 :])
    return _direct(words)


def is_peer_id(text: str) -> bool:
    """True for a peer id as libp2p writes it."""
    return _PEER_ID.fullmatch(text) is not None


def _family_of(host: str) -> str:
    try:
        return f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"


def _relayed(relay: list[str], after: list[str]) -> Multiaddr:
    through = _direct(relay)
    if not through.peer:
        raise Wrong("does not say the peer id of its relay: write …/p2p/RELAY/p2p-circuit/p2p/PEER")
    peer = _peer(after)
    if not peer:
        raise Wrong("does not say which peer is behind its relay: write …/p2p-circuit/p2p/PEER")
    return through._replace(peer=peer, via=str(through))


def _direct(words: list[str]) -> Multiaddr:
    if len(words) < 2:
        raise Wrong("is not a multiaddr: write /ip4/192.0.2.1/tcp/9012/p2p/PEER, or host:port")
    family, host, *rest = words
    if family == "dnsaddr":
        _check_name(host)
        return Multiaddr(host, 0, "dnsaddr", "dnsaddr", _peer(rest))
    if family in _LITERALS:
        _check_literal(host, _LITERALS[family])
    elif family in _NAMES:
        _check_name(host)
    else:
        raise Wrong(f"begins with {family!r}; this node knows /ip4, /ip6, /dns, /dns4, /dns6 and /dnsaddr")
    if rest[:1] == ["tcp"]:
        return Multiaddr(host, _port(rest[1:2]), "tcp", family, _peer(rest[2:]))
    if rest[:1] == ["udp"] and rest[2:3] == ["quic-v1"]:
        return Multiaddr(host, _port(rest[1:2]), "quic-v1", family, _peer(rest[3:]))
    raise Wrong("has no transport that this node knows: write /tcp/PORT")


def _check_literal(host: str, version: int) -> None:
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        raise Wrong(f"has no valid IPv{version} address") from None
    if found.version != version:
        raise Wrong(f"has no valid IPv{version} address")


def _check_name(host: str) -> None:
    if not _HOST_NAME.fullmatch(host):
        raise Wrong("has no valid host name")


def _port(words: list[str]) -> int:
    if not words or not re.fullmatch(r"[0-9]{1,5}", words[0], re.ASCII) or int(words[0]) > PORT_MAX:
        raise Wrong(f"has no valid port: a port is a number from 0 to {PORT_MAX}")
    return int(words[0])


def _peer(words: list[str]) -> str:
    if not words:
        return ""
    if len(words) != 2 or words[0] not in ("p2p", "ipfs"):
        raise Wrong(f"has {words[0]!r} where only /p2p/PEER may follow")
    if not _PEER_ID.fullmatch(words[1]):
        raise Wrong("has no valid peer id")
    return words[1]


class PeerAddressKind(AddressKind):
    """``host:port``, ``[IPv6]:port`` or a multiaddr."""

    def check(self, value: object) -> None:
        if not isinstance(value, str):
            raise Wrong("is not an address")
        parsed = parse_multiaddr(value)
        if parsed.transport == "quic-v1":
            raise Wrong("is an address for QUIC, over which libp2p 0.8.1 loses data: write /tcp/PORT (ADR 43)")
        if parsed.transport != "dnsaddr" and parsed.port < self.port_min:
            raise Wrong("has port 0, to which nothing can be sent")

    def range_text(self) -> str:
        return "`host:port`, `[IPv6]:port`, or a multiaddr"
