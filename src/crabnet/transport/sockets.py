"""The sockets of a UDP transport, and the ways from them to an address.

Every datagram is sent from a listening socket if there is one of its family. So answers come back there, and a peer
knows this node by one address. Datagrams for everybody on a link leave by every interface (ADR 30), because a machine
without a default route has no other way for them, and a machine with several interfaces is on several links.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import trio

from crabnet import limits
from crabnet.bounded import BoundedTable
from crabnet.transport.base import BROADCAST_HOST, Address
from crabnet.transport.interfaces import Interface, interfaces, out_of
from crabnet.transport.resolver import Endpoint, address_of

_SO_RCVBUFFORCE: Final = 33
_ANY: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}  # noqa: S104 - compared with
_ALL_NODES: Final = "ff02::1"
"""The multicast address of all IPv6 nodes on a link (RFC 4291 section 2.7.1). A node need not join this group."""
_MULTICAST: Final = "ff"

SocketAddress = tuple[str | int, ...] | tuple[int, bytes]


class Way(NamedTuple):
    """How a datagram leaves: its socket, its target, and its control messages to the kernel."""

    sock: socket.socket
    to: SocketAddress
    control: tuple[tuple[int, int, bytes], ...] = ()


class _Listener(NamedTuple):
    sock: socket.socket
    address: Address

    @property
    def everywhere(self) -> bool:
        """True if the socket is bound to all addresses of its family."""
        return self.address.host in _ANY.values()


class Sockets:
    """The listening sockets. For a family without one, a sending socket is created when it is needed."""

    def __init__(self, receive_buffer_bytes: int, added: Callable[[], None]) -> None:
        self._buffer_bytes_wanted = receive_buffer_bytes
        self._added = added
        self._listeners: list[_Listener] = []
        self._senders: dict[int, socket.socket] = {}
        self._heard_on: BoundedTable[Address, socket.socket] = BoundedTable(limits.SEND_FROM_MAX)
        self._interfaces: list[Interface] = []
        self._look_at_s = float("-inf")

    @property
    def addresses(self) -> list[Address]:
        """The addresses of the listening sockets, with their real ports."""
        return [listener.address for listener in self._listeners]

    @property
    def family(self) -> int | None:
        """The preferred family for sending: that of all listeners. None if they have both families or none exist."""
        families = {listener.sock.family for listener in self._listeners}
        return families.pop() if len(families) == 1 else None

    @property
    def receive_buffer_bytes(self) -> int:
        """The smallest receive buffer of the listening sockets, in bytes, as the kernel counts it (Linux doubles the
        requested number).
        """
        sizes = [each.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for each in self._listeners]
        return min(sizes, default=0)

    def all(self) -> list[socket.socket]:
        """All open sockets."""
        return [*(listener.sock for listener in self._listeners), *self._senders.values()]

    def listen(self, endpoint: Endpoint) -> Address:
        """Listen on an endpoint. Returns its address. Raises OSError."""
        sock = self._made(endpoint)
        address = address_of(sock.getsockname())
        self._listeners.append(_Listener(sock, address))
        self._added()
        return address

    def heard(self, sock: socket.socket, source: Address) -> None:
        """Note that a datagram from ``source`` came in on ``sock``. Datagrams to that source leave by this socket."""
        if len(self._listeners) > 1:
            self._heard_on.put(source, sock)

    def close(self) -> None:
        """Close all sockets. Tasks that wait for them get trio.ClosedResourceError."""
        for sock in self.all():
            trio.lowlevel.notify_closing(sock)
            sock.close()
        self._listeners.clear()
        self._senders.clear()

    def ways(self, to: Address, endpoint: Endpoint) -> list[Way]:
        """The ways to send to ``to``, which is at ``endpoint``: one, or one for each interface. Raises OSError."""
        found: list[Way] = []
        if to.host == BROADCAST_HOST:
            found = [*self._broadcasts(to.port), *self._to_all_nodes(to.port)]
        elif endpoint.family == socket.AF_INET6 and not endpoint.sockaddr[3:4] > (0,):
            host = str(endpoint.sockaddr[0])
            if host.lower().startswith(_MULTICAST):
                found = self._multicasts(host, to.port)
        return found or [Way(self._sock_for(to, endpoint), endpoint.sockaddr)]

    def _broadcasts(self, port: int) -> list[Way]:
        listeners = self._of(socket.AF_INET)
        found = []
        for interface in self._around():
            if not interface.ipv4:
                continue
            fitting = [each.sock for each in listeners if each.everywhere or each.address.host == interface.ipv4]
            if not listeners:
                fitting = [self._sender(socket.AF_INET)]
            found += [Way(sock, (BROADCAST_HOST, port), (out_of(interface),)) for sock in fitting[:1]]
        return found

    def _to_all_nodes(self, port: int) -> list[Way]:
        """The ways to all IPv6 nodes on the links, if this node listens on all its IPv6 addresses."""
        return self._multicasts(_ALL_NODES, port) if any(each.everywhere for each in self._of(socket.AF_INET6)) else []

    def _multicasts(self, host: str, port: int) -> list[Way]:
        listeners = self._of(socket.AF_INET6)
        sock = listeners[0].sock if listeners else self._sender(socket.AF_INET6)
        return [Way(sock, (host, port, 0, interface.number)) for interface in self._around() if interface.ipv6]

    def _around(self) -> list[Interface]:
        now_s = trio.current_time()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + limits.INTERFACES_TTL_MS / 1000
            self._interfaces = interfaces()
        return self._interfaces

    def _of(self, family: int) -> list[_Listener]:
        return [listener for listener in self._listeners if listener.sock.family == family]

    def _sock_for(self, to: Address, endpoint: Endpoint) -> socket.socket:
        listeners = self._of(endpoint.family)
        if not listeners:
            return self._sender(endpoint.family)
        if len(listeners) == 1:
            return listeners[0].sock
        sock = self._heard_on.get(to)
        if sock is None or sock.family != endpoint.family:
            source = _source_towards(endpoint)
            sock = min(listeners, key=lambda each: (each.address.host != source, not each.everywhere)).sock
            self._heard_on.put(to, sock)
        return sock

    def _sender(self, family: int) -> socket.socket:
        sock = self._senders.get(family)
        if sock is None:
            sock = self._senders[family] = self._made(Endpoint(family, (_ANY[socket.AddressFamily(family)], 0)))
            self._added()
        return sock

    def _made(self, endpoint: Endpoint) -> socket.socket:
        sock = socket.socket(endpoint.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if endpoint.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            _enlarge_receive_buffer(sock, self._buffer_bytes_wanted)
            sock.bind(endpoint.sockaddr)
        except BaseException:
            sock.close()
            raise
        return sock


def _source_towards(endpoint: Endpoint) -> str:
    """The source address that the kernel would use towards an endpoint; "" without a route. Sends nothing."""
    with suppress(OSError), socket.socket(endpoint.family, socket.SOCK_DGRAM) as probe:
        probe.connect(endpoint.sockaddr)
        return str(probe.getsockname()[0])
    return ""


def _enlarge_receive_buffer(sock: socket.socket, wanted_bytes: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
