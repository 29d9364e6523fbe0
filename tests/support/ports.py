"""Ports for what listens later: no other test takes one of them in between."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_PORTS: Final = range(10_000, 65_536)
_KINDS: Final = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
_claims: Final[list[socket.socket]] = []
"""Sockets with names that say which ports this process has. The kernel frees the names when it ends."""


def reserved_port() -> int:
    """A port for this process on 127.0.0.1, free for UDP and TCP.

    It lies outside of the range from which the kernel gives ports to sockets that ask for any. Tests that ask here at
    the same time, in whatever process, get others. Raises RuntimeError if there is none.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    for port in random.sample([each for each in _PORTS if not first <= each <= last], 100):
        with ExitStack() as kept:
            claim = kept.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            try:
                claim.bind(f"\0crabnet-tests/ports/{port}")
                for kind in _KINDS:
                    with socket.socket(socket.AF_INET, kind) as probe:
                        probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            kept.pop_all()
            _claims.append(claim)
            return port
    raise RuntimeError("no port is free")
