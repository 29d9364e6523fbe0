"""The network interfaces of this machine, as needed to send to everybody on a link (ADR 30). Linux only; on other
systems no interfaces are found.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFADDR: Final = 0x8915
_IFF_UP: Final = 0x1
_IFF_BROADCAST: Final = 0x2
_IFF_LOOPBACK: Final = 0x8
_IFF_MULTICAST: Final = 0x1000
_IFREQ: Final = struct.Struct("16s24x")
_FLAGS_AT: Final = 16
_ADDRESS_AT: Final = 20
_IPV6_ADDRESSES: Final = Path("/proc/net/if_inet6")
_PKTINFO: Final = struct.Struct("=I4x4x")
IP_PKTINFO: Final = 8
"""Linux's number of the option that names the interface of one datagram (ip(7))."""


class Interface(NamedTuple):
    """An interface that is up and is not loopback. ``ipv4`` is its address if it can broadcast, else "". ``ipv6`` is
    true if it has an IPv6 address and can multicast.
    """

    number: int
    ipv4: str
    ipv6: bool


def interfaces() -> list[Interface]:
    """The interfaces that can broadcast or multicast. Empty on a system that does not list them."""
    try:
        import fcntl  # noqa: PLC0415 - POSIX only

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            with_ipv6 = _with_ipv6()
            found = [_interface(fcntl.ioctl, probe, *each, with_ipv6) for each in socket.if_nameindex()]
    except (ImportError, OSError):
        return []
    return [each for each in found if each is not None]


def _interface(
    ioctl: Callable[[socket.socket, int, bytes], bytes], probe: socket.socket, index: int, name: str, ipv6: set[int]
) -> Interface | None:
    request = _IFREQ.pack(name.encode())
    try:
        flags = int.from_bytes(ioctl(probe, _SIOCGIFFLAGS, request)[_FLAGS_AT : _FLAGS_AT + 2], sys.byteorder)
    except OSError:
        return None  # it has just disappeared
    if not flags & _IFF_UP or flags & _IFF_LOOPBACK:
        return None
    ipv4 = ""
    if flags & _IFF_BROADCAST:
        try:
            answer = ioctl(probe, _SIOCGIFADDR, request)
            ipv4 = socket.inet_ntoa(answer[_ADDRESS_AT : _ADDRESS_AT + 4])
        except OSError:
            ipv4 = ""  # it has no IPv4 address
    multicasts = bool(flags & _IFF_MULTICAST) and index in ipv6
    return Interface(index, ipv4, multicasts) if ipv4 or multicasts else None


def _with_ipv6() -> set[int]:
    """Indexes of the interfaces that have an IPv6 address."""
    try:
        lines = _IPV6_ADDRESSES.read_text().splitlines()
    except OSError:
        return set()
    return {int(line.split()[1], 16) for line in lines}


def out_of(interface: Interface) -> tuple[int, int, bytes]:
    """The control message that sends an IPv4 datagram out by an interface, whatever the routes are."""
    return socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO.pack(interface.number)
