"""What can be said about a configured libp2p address before it is used: for the start of a node, and for
``crabnet config verify``. Without libp2p.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from crabnet.errors import NetworkError, Reason
from crabnet.settings.multiaddr import Multiaddr, parse_multiaddr

_UNSUPPORTED = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL})


def check_bootstrap(text: str, own_peer: str, listen: Iterable[str]) -> None:
    """Check the address of a bootstrap peer without a word to anybody. ``own_peer`` is "" if it is not known.

    Raises NetworkError: OWN_ADDRESS for this node itself, NODE_UNREACHABLE for a family of addresses that this machine
    cannot reach. A ``text`` that is no address raises ``Wrong``, as the settings do.
    """
    parsed = parse_multiaddr(text)
    if own_peer and parsed.peer == own_peer:
        raise NetworkError(f"bootstrap_peers: {text} has this node's own peer id; remove it", Reason.OWN_ADDRESS)
    if _is_own(parsed, [parse_multiaddr(each) for each in listen]):
        raise NetworkError(
            f"bootstrap_peers: {text} is the address on which this node listens itself; remove it", Reason.OWN_ADDRESS
        )
    family = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}.get(parsed.family)
    if family is None:
        return
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((parsed.host, parsed.port or 9))  # sends nothing: it only asks for a route
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            return
        kind = "IPv6" if family == socket.AF_INET6 else "IPv4"
        raise NetworkError(
            f"bootstrap_peers: this machine has no route to the {kind} address {text} ({error.strerror}); give the "
            "peer an address of another kind, or set up the network",
            Reason.NODE_UNREACHABLE,
        ) from error


def _is_own(parsed: Multiaddr, listen: list[Multiaddr]) -> bool:
    if parsed.via or not parsed.port:
        return False
    return any(parsed.port == each.port and parsed.host == each.host for each in listen)


def check_listener(text: str) -> None:
    """Try whether an address can be listened on now. libp2p itself would share a port that is in use.

    Raises NetworkError: ADDRESS_IN_USE, or ADDRESS_INVALID for an address that does not belong to this machine.
    """
    parsed = parse_multiaddr(text)
    family = socket.AF_INET6 if parsed.family == "ip6" else socket.AF_INET
    kind = socket.SOCK_STREAM if parsed.transport == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((parsed.host, parsed.port))
            if parsed.transport == "tcp":
                probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise NetworkError(
                f"listen_addr: cannot listen on {text}: the port is in use; end the program that uses it, give another "
                "port, or set dht_listen_fallback to take a free one",
                Reason.ADDRESS_IN_USE,
            ) from error
        raise NetworkError(
            f"listen_addr: cannot listen on {text}: {error.strerror}; give an address of this machine, or 0.0.0.0",
            Reason.ADDRESS_INVALID,
        ) from error
