"""UDP over IPv4 and IPv6, with trio.

What comes in is taken from the socket as fast as possible, because the kernel drops what it has no room for; what
the node cannot use is for the node to judge. All answers come back to the socket that sent, so every socket is read.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from crabnet import limits
from crabnet.errors import NetworkError, Reason
from crabnet.transport.base import Address
from crabnet.transport.resolver import Endpoint, Resolver

_BUFFER_BYTES: Final = 65_536
"""More than the length field of UDP allows, so that nothing is ever cut."""
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8
_IN6ADDR_ANY: Final = "::"
_PENDING_ICMP_ERRORS: Final = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})


class UdpStats(msgspec.Struct):
    """What went through a transport since it was opened. Counts, and bytes of payload."""

    datagrams_received: int = 0
    bytes_received: int = 0
    receive_errors: int = 0
    datagrams_sent: int = 0
    bytes_sent: int = 0
    send_errors: int = 0


class UdpTransport:
    """A Transport over UDP. Make it with ``open``; close it with ``aclose`` or by ``async with``.

    With a listen address everything of that family is sent from the listening socket. A second socket, on a port
    that the kernel chooses, is made when something is first sent to the other family; without a listen address
    both families do so.
    """

    def __init__(self, resolver: Resolver, receive_buffer_bytes: int) -> None:
        self.stats = UdpStats()
        self._resolver = resolver
        self._buffer_bytes_wanted = receive_buffer_bytes
        self._sockets: dict[int, socket.socket] = {}
        self._listener_family: int | None = None
        self._local_address: Address | None = None
        self._receive_buffer_bytes = 0
        self._changed = trio.Event()
        self._send_lock = trio.Lock()
        self._receiving = False
        self._closed = False

    @classmethod
    async def open(
        cls,
        listen: Address | None = None,
        *,
        resolver: Resolver | None = None,
        receive_buffer_bytes: int = limits.UDP_RECEIVE_BUFFER_BYTES,
    ) -> UdpTransport:
        """Bind ``listen`` (port 0 takes a free one), or with None only get ready to send and be answered.

        Raises NetworkError: ADDRESS_IN_USE, or ADDRESS_INVALID for an address that is not of this machine, cannot
        be resolved, or may not be bound.
        """
        transport = cls(resolver if resolver is not None else Resolver(), receive_buffer_bytes)
        if listen is not None:
            endpoint = await transport._resolver.resolve(listen)
            try:
                transport._add_socket(endpoint)
            except OSError as error:
                raise _bind_error(listen, error) from error
            transport._listener_family = endpoint.family
            bound = transport._sockets[endpoint.family]
            transport._local_address = _address(bound.getsockname())
            transport._receive_buffer_bytes = bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return transport

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    @property
    def local_address(self) -> Address | None:
        """The address that is listened on, with its real port; None without one."""
        return self._local_address

    @property
    def receive_buffer_bytes(self) -> int:
        """What the kernel granted the listening socket, in its own count (Linux doubles the number asked for)."""
        return self._receive_buffer_bytes

    def dropped_by_kernel(self) -> int:
        """Datagrams that arrived but found no room in the receive buffers, since the sockets were made."""
        drops = 0
        for sock in self._sockets.values():
            try:
                raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
            except OSError:
                continue
            if len(raw) == _MEMINFO.size:
                drops += _MEMINFO.unpack(raw)[_MEMINFO_DROPS]
        return drops

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for datagrams; return those that are there, up to UDP_DRAIN_DATAGRAMS_MAX of each socket.

        An empty datagram is ``b""``. Errors reported for earlier sends (ICMP) are counted and passed over. When
        cancelled, nothing is lost. Raises trio.ClosedResourceError when closed, trio.BusyResourceError when
        another task is receiving.
        """
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this transport")
        self._receiving = True
        try:
            while True:
                await trio.lowlevel.checkpoint()
                self._check_open()
                errors_before = self.stats.receive_errors
                received = [item for sock in list(self._sockets.values()) for item in self._drain(sock)]
                if received:
                    return received
                if self.stats.receive_errors > errors_before:
                    await trio.sleep(limits.UDP_ERROR_PAUSE_MS / 1000)
                else:
                    await self._wait_readable()
        finally:
            self._receiving = False

    async def send(self, data: bytes, to: Address) -> None:
        """Send one datagram, from the listening socket if ``to`` is of its family.

        Raises NetworkError: ADDRESS_INVALID when a host name leads nowhere, SEND_FAILED with the kernel's words
        (too large, no route, not permitted ...) or when the send buffer stays full for UDP_SEND_WAIT_MS; and
        trio.ClosedResourceError when closed.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        endpoint = await self._resolver.resolve(to, self._listener_family)
        self._check_open()
        try:
            await self._send_to(data, endpoint)
        except OSError as error:
            self.stats.send_errors += 1
            self._resolver.failed(to)
            words = error.strerror or str(error)
            raise NetworkError(f"cannot send {len(data)} bytes to {to}: {words}", Reason.SEND_FAILED) from error
        self.stats.datagrams_sent += 1
        self.stats.bytes_sent += len(data)

    async def aclose(self) -> None:
        """Close all sockets. Waiting tasks get trio.ClosedResourceError. May be called again."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        for sock in self._sockets.values():
            trio.lowlevel.notify_closing(sock)
            sock.close()
        self._sockets.clear()
        self._changed.set()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this UDP transport was closed")

    def _add_socket(self, endpoint: Endpoint) -> socket.socket:
        """Make, bind and register a socket. Raises OSError."""
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
        self._sockets[endpoint.family] = sock
        self._changed.set()
        return sock

    async def _send_to(self, data: bytes, endpoint: Endpoint) -> None:
        sock = self._sockets.get(endpoint.family)
        if sock is None:
            anywhere = _IN6ADDR_ANY if endpoint.family == socket.AF_INET6 else ""
            sock = self._add_socket(Endpoint(endpoint.family, (anywhere, 0)))
        try:
            _send_now(sock, data, endpoint)
        except BlockingIOError:
            with trio.move_on_after(limits.UDP_SEND_WAIT_MS / 1000) as waiting:
                await self._send_when_writable(sock, data, endpoint)
            if waiting.cancelled_caught:
                raise TimeoutError(f"the send buffer stayed full for {limits.UDP_SEND_WAIT_MS} ms") from None

    async def _send_when_writable(self, sock: socket.socket, data: bytes, endpoint: Endpoint) -> None:
        async with self._send_lock:
            while True:
                self._check_open()
                await trio.lowlevel.wait_writable(sock)
                try:
                    _send_now(sock, data, endpoint)
                    return
                except BlockingIOError:
                    continue

    def _drain(self, sock: socket.socket) -> list[tuple[bytes, Address]]:
        received: list[tuple[bytes, Address]] = []
        stats = self.stats
        for _ in range(limits.UDP_DRAIN_DATAGRAMS_MAX):
            try:
                data, sockaddr = sock.recvfrom(_BUFFER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                stats.receive_errors += 1
                continue
            stats.datagrams_received += 1
            stats.bytes_received += len(data)
            received.append((data, _address(sockaddr)))
        return received

    async def _wait_readable(self) -> None:
        """Until a socket may have something, a socket was added, or the transport was closed."""
        self._changed = changed = trio.Event()
        async with trio.open_nursery() as nursery:

            async def wait_for(sock: socket.socket) -> None:
                if self._closed:
                    return  # before this task began
                with suppress(trio.ClosedResourceError):  # the caller finds out
                    await trio.lowlevel.wait_readable(sock)
                nursery.cancel_scope.cancel()

            for sock in self._sockets.values():
                nursery.start_soon(wait_for, sock)
            await changed.wait()
            nursery.cancel_scope.cancel()


def _send_now(sock: socket.socket, data: bytes, endpoint: Endpoint) -> None:
    """Send without waiting. The kernel may report an ICMP error of an earlier datagram instead: then once more."""
    try:
        sock.sendto(data, socket.MSG_DONTWAIT, endpoint.sockaddr)
    except OSError as error:
        if error.errno not in _PENDING_ICMP_ERRORS:
            raise
        sock.sendto(data, socket.MSG_DONTWAIT, endpoint.sockaddr)


def _enlarge_receive_buffer(sock: socket.socket, wanted_bytes: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, wanted_bytes)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)


def _address(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """An address as it is written: link-local ones need the name of their interface."""
    if len(sockaddr) == 4 and sockaddr[3]:
        try:
            zone = socket.if_indextoname(sockaddr[3])
        except OSError:
            zone = str(sockaddr[3])
        return Address(f"{sockaddr[0]}%{zone}", sockaddr[1])
    return Address(sockaddr[0], sockaddr[1])


def _bind_error(listen: Address, error: OSError) -> NetworkError:
    if error.errno == errno.EADDRINUSE:
        message = f"UDP address {listen} is in use by another process: stop it or listen on another address"
        return NetworkError(message, Reason.ADDRESS_IN_USE)
    words = os.strerror(error.errno) if error.errno else str(error)
    return NetworkError(f"cannot listen on UDP address {listen}: {words}", Reason.ADDRESS_INVALID)
