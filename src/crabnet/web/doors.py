"""The sockets at which the web process listens."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from crabnet import limits
from crabnet.control.client import short_socket_path
from crabnet.errors import NetworkError, Reason, UsageError
from crabnet.settings import OFF, split_address
from crabnet.web.config import WebConfig


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and what holds for those who come through it."""

    socket: socket.socket
    address: str
    """For people and programs: an URL, or ``unix:PATH``."""
    hosts: frozenset[str] = frozenset()
    """Names in the Host header that are allowed besides the address itself."""
    tls: ssl.SSLContext | None = None
    local: bool = False
    """A Unix socket: whoever may open it has all rights."""
    path: Path | None = None
    metrics_only: bool = False
    """It serves nothing but metrics and health."""

    def close(self) -> None:
        """Stop listening. Removes the file of a Unix socket."""
        self.socket.close()
        if self.path is not None:
            with suppress(OSError), short_socket_path(self.path) as address:
                os.unlink(address)  # noqa: PTH108 - a name through a descriptor


def open_doors(config: WebConfig) -> list[Door]:
    """Listen wherever the configuration says.

    Raises NetworkError (ADDRESS_IN_USE, ADDRESS_INVALID) and UsageError (INVALID_CONFIG) for TLS files.
    """
    with ExitStack() as stack:
        doors: list[Door] = []
        addresses = [(config.web_addr, False), (config.metrics_addr or OFF, True)]
        for address, metrics_only in addresses:
            for door in [] if address == OFF else _tcp_doors(config, address, metrics_only=metrics_only):
                stack.callback(door.close)
                doors.append(door)
        if config.web_socket is not None:
            door = _unix_door(Path(config.web_socket))
            stack.callback(door.close)
            doors.append(door)
        stack.pop_all()
        return doors


def _tcp_doors(config: WebConfig, address: str, *, metrics_only: bool) -> list[Door]:
    host, port = split_address(address)
    hosts = frozenset(each.lower() for each in (host, *config.web_allowed_hosts))
    tls = tls_context(config)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise NetworkError(
            f"the web address {address} cannot be resolved: {error.strerror}", Reason.ADDRESS_INVALID
        ) from None
    doors: list[Door] = []
    with ExitStack() as stack:
        for family, _, _, _, place in dict.fromkeys(found):
            # Port 0 of a name with several addresses is the same free port for all of them.
            number = doors[0].socket.getsockname()[1] if doors and port == 0 else port
            sock = _bound(family, (place[0], number, *place[2:]), address)
            stack.callback(sock.close)
            name, number = sock.getsockname()[:2]
            shown = f"[{name}]" if family == socket.AF_INET6 else name
            scheme = "http" if tls is None else "https"
            doors.append(Door(sock, f"{scheme}://{shown}:{number}", hosts, tls, metrics_only=metrics_only))
        stack.pop_all()
    return doors


def _bound(family: int, place: tuple[object, ...], address: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and place[0] != "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(limits.WEB_BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise NetworkError(
                f"the web address {address} is in use by another program; end it, or choose another one with"
                " --web-addr",
                Reason.ADDRESS_IN_USE,
            ) from None
        raise NetworkError(
            f"the web address {address} cannot be used: {error.strerror}", Reason.ADDRESS_INVALID
        ) from None
    return sock


def tls_context(config: WebConfig) -> ssl.SSLContext | None:
    """The TLS side of the server; None without a certificate. Raises UsageError (INVALID_CONFIG)."""
    if config.web_tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.web_tls_cert, config.web_tls_key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificate {config.web_tls_cert} or its key cannot be used: {error.strerror or error}; check"
            " web_tls_cert and web_tls_key",
            Reason.INVALID_CONFIG,
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def _unix_door(path: Path) -> Door:
    """A socket that only this user can open. A file that no server uses any more is replaced."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with short_socket_path(path) as address:
            _remove_stale(address, path)
            os.fchmod(sock.fileno(), 0o600)  # bind gives the file the mode of the socket (Linux)
            sock.bind(address)
            os.chmod(address, 0o600)  # noqa: PTH101 - a name through a descriptor
            sock.listen(limits.WEB_BACKLOG)
    except OSError as error:
        sock.close()
        reason = Reason.ADDRESS_IN_USE if error.errno == errno.EADDRINUSE else Reason.ADDRESS_INVALID
        raise NetworkError(f"the web socket {path} cannot be made: {error.strerror}", reason) from None
    return Door(sock, f"unix:{path}", local=True, path=path)


def _remove_stale(address: str, path: Path) -> None:
    """Remove a socket that nobody serves. Raises OSError for anything else that is there."""
    try:
        mode = os.lstat(address).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, f"{path} is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(address)  # noqa: PTH108 - as above
            return
    raise OSError(errno.EADDRINUSE, "another program serves it")
