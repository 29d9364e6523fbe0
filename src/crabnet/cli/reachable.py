"""The line with which others join a node, from the address on which it listens."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from crabnet.plain import plain
from crabnet.settings import split_address

_IP_PART: Final = re.compile(r"/ip[46]/([0-9A-Fa-f.:]+)(?=/|$)")
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of nobody (RFC 5737, RFC 3849): the system tells by which of its own it would reach them."""


class OwnAddress(NamedTuple):
    """An address of this machine, and its interface; "" if that is not known."""

    address: str
    interface: str


def join_line(listening: str, own: Callable[[], Sequence[OwnAddress]]) -> str:
    """How others join a node that listens on an address such as ``Udp:0.0.0.0:9012``; "" if nobody can.

    For an address that means every interface, it names those that ``own`` gives, the usual way out first.
    """
    transport, _, address = listening.partition(":")
    if transport == "Dht":
        match = _IP_PART.search(address)
        if match is None:
            return f"others join with: crabnet work --join {plain(address)}"
        host, head, tail = match[1], address[: match.start(1)], address[match.end(1) :]
    else:
        host, port = split_address(address)
        head, tail = ("[", f"]:{port}") if ":" in host else ("", f":{port}")
    found = _ip(host)
    if found is None or not found.is_unspecified:
        who = "programs on this machine join" if found is not None and found.is_loopback else "others join"
        return f"{who} with: crabnet work --join {plain(head + host + tail)}"
    places = [(_place(each.address, head, tail), each.interface or "?") for each in own()]
    if not places:
        return ""
    (first, interface), *further = places
    also = "".join(f"; on {name}: --join {place}" for place, name in further)
    return plain(f"others join with: crabnet work --join {first}{f'  (on {interface}{also})' if further else ''}")


def own_addresses() -> list[OwnAddress]:
    """The addresses of this machine that others may reach: that of the usual way out, then one of each interface."""
    from crabnet.transport.interfaces import interfaces

    found = []
    for each in interfaces():
        name = ""
        with suppress(OSError):
            name = socket.if_indextoname(each.number)
        if each.ipv4:
            found.append(OwnAddress(each.ipv4, name))
    usual = _usual()
    known = [each for each in found if each.address == usual]
    if usual and not known:
        known = [OwnAddress(usual, "")]
    return known + [each for each in found if each.address != usual]


def _usual() -> str:
    """The address by which datagrams for elsewhere leave; "" if there is no way out."""
    for family, elsewhere in _ELSEWHERE:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            address = str(probe.getsockname()[0])
            found = _ip(address)
            if found is not None and not (found.is_loopback or found.is_unspecified):
                return address
    return ""


def _place(address: str, head: str, tail: str) -> str:
    """An address of this machine in the form of the one that means all of them."""
    if head in {"", "["}:
        return f"{f'[{address}]' if ':' in address else address}{tail.removeprefix(']')}"
    return f"/{'ip6' if ':' in address else 'ip4'}/{address}{tail}"


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
