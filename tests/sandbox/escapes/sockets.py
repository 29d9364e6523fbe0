"""Attempts to reach somebody through sockets."""

from __future__ import annotations

import socket
from functools import partial

from tests.sandbox.escapes.kit import (
    Attempt,
    Host,
    escape,
)


def connected(family: int, address: object, kind: int = socket.SOCK_STREAM) -> object:
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)  # type: ignore[arg-type]
        client.sendall(b"probe")
        client.shutdown(socket.SHUT_WR)
        return client.recv(16) == b"host"


@escape
def loopback_tcp(host: Host, attempt: Attempt) -> None:
    attempt("127.0.0.1", lambda: connected(socket.AF_INET, ("127.0.0.1", host["tcp"])))
    attempt("a mapped address", lambda: connected(socket.AF_INET6, ("::ffff:127.0.0.1", host["tcp"])))


@escape
def loopback_udp(host: Host, attempt: Attempt) -> None:
    def ask() -> object:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(2)
            client.sendto(b"probe", ("127.0.0.1", host["udp"]))
            return client.recv(16) == b"host"

    attempt("127.0.0.1", ask)


@escape
def other_networks(host: Host, attempt: Attempt) -> None:
    def route() -> object:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.2", 9))  # sends nothing
            return True

    attempt("a route", route)
    attempt("serving", lambda: socket.create_server(("127.0.0.1", 0)))


@escape
def abstract_unix_socket(host: Host, attempt: Attempt) -> None:
    name = "\0" + host["abstract"]
    attempt("stream", lambda: connected(socket.AF_UNIX, name))

    def by_pair() -> object:
        one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.sendto(b"probe", "\0" + host["abstract"] + "-datagrams")
        return True

    attempt("datagram from a pair", by_pair)


@escape
def path_unix_socket(host: Host, attempt: Attempt) -> None:
    attempt("the node's", lambda: connected(socket.AF_UNIX, host["socket"]))
    for path in ("/run/dbus/system_bus_socket", "/run/systemd/journal/dev-log", "/dev/log", "/run/docker.sock"):
        attempt(path, partial(connected, socket.AF_UNIX, path))


@escape
def unusual_sockets(host: Host, attempt: Attempt) -> None:
    kinds = {"packet": (17, 3), "netlink": (16, 3), "vsock": (40, 1), "kernel crypto": (38, 5), "bluetooth": (31, 3)}
    for name, (family, kind) in kinds.items():
        attempt(name, partial(socket.socket, family, kind))
    attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
    attempt("multipath", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
