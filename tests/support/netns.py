"""Hosts that are network namespaces, joined by links that lose, delay, double and cut packets. Needs root.

A link is a pair of TUN devices, one in each namespace; a thread of the test carries packets between them. No host
forwards, so two hosts without a link between them cannot reach each other, whatever their routes say.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import shutil
import struct
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.polling import readable

_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_PACKET_BYTES = 65_536


def needs_namespaces() -> None:
    """Skip, loudly, where namespaces cannot be made."""
    for missing, what in (
        (os.geteuid() != 0, "root"),
        (shutil.which("ip") is None, "the program ip (iproute2)"),
        (not Path("/dev/net/tun").exists(), "/dev/net/tun"),
    ):
        if missing:
            pytest.skip(f"NOT TESTED: real nodes in network namespaces; missing: {what}")
    tried = subprocess.run(
        ["ip", "netns", "add", f"cn{os.getpid()}-probe"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"NOT TESTED: real nodes in network namespaces; cannot make one: {tried.stderr.strip()}")
    _ip("netns", "del", f"cn{os.getpid()}-probe")


@dataclass
class Fate:
    """What happens to packets in one direction. Probabilities from 0 to 1."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    cut: bool = False


class Lab:
    """``with Lab() as lab``: make hosts and links, then start nodes with ``netns=lab.namespace(host)``."""

    def __init__(self, seed: int = 0) -> None:
        self._chance = random.Random(seed)
        self._hosts: list[str] = []
        self._links: dict[int, tuple[str, str, int]] = {}
        """Descriptor of a TUN device: its host, the host at the other end, and the descriptor there."""
        self._lans: dict[int, list[int]] = {}
        """Descriptor of a TAP device: those of the others on its network."""
        self._fates: dict[tuple[str, str], Fate] = {}
        self._addresses: dict[tuple[str, str], str] = {}
        self._late: list[tuple[float, int, int, bytes]] = []
        self.carried = 0
        self.lost = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        for fd in [*self._links, *self._lans]:
            os.close(fd)
        for host in self._hosts:
            subprocess.run(["ip", "netns", "del", self.namespace(host)], capture_output=True, check=False)

    def namespace(self, host: str) -> str:
        """The name of a host's namespace."""
        return f"cn{os.getpid()}-{host}"

    def host(self, name: str) -> str:
        """Make a host; returns its namespace."""
        self._hosts.append(name)
        _ip("netns", "add", self.namespace(name))
        _ip("-n", self.namespace(name), "link", "set", "lo", "up")
        return self.namespace(name)

    def link(self, one: str, other: str, fate: Fate | None = None) -> None:
        """Join two hosts by a network of their own; packets fare the same in both directions."""
        number = len(self._links) // 2 + 1
        fds = [
            self._device(f"cn{os.getpid() % 10_000}l{number}{end}", host, number, end)
            for end, host in enumerate((one, other))
        ]
        self._addresses[one, other], self._addresses[other, one] = f"10.99.{number}.2", f"10.99.{number}.1"
        self.fare(one, other, fate or Fate())
        self._links |= {fds[0]: (one, other, fds[1]), fds[1]: (other, one, fds[0])}

    def lan(self, number: int, *hosts: str, ipv4: bool = True) -> None:
        """Put hosts on a local network that nothing leads out of: no host gets a default route. With IPv6 link-local
        addresses, and ``10.98.NUMBER.x`` unless it has no IPv4.
        """
        fds = []
        for at, host in enumerate(hosts, start=1):
            name, namespace = f"cn{os.getpid() % 10_000}n{number}{at}", self.namespace(host)
            fds.append(_opened(name, _IFF_TAP_NO_PI))
            _ip("link", "set", name, "netns", namespace)
            _ip("-n", namespace, "link", "set", name, "addrgenmode", "none")
            _ip("-n", namespace, "-6", "addr", "add", f"fe80::{number}:{at}/64", "dev", name, "nodad")
            if ipv4:
                _ip("-n", namespace, "addr", "add", f"10.98.{number}.{at}/24", "broadcast", "+", "dev", name)
            _ip("-n", namespace, "link", "set", name, "up")
        self._lans |= {fd: [other for other in fds if other != fd] for fd in fds}

    def _device(self, name: str, host: str, number: int, end: int) -> int:
        fd = _opened(name, _IFF_TUN_NO_PI)
        namespace = self.namespace(host)
        _ip("link", "set", name, "netns", namespace)
        _ip("-n", namespace, "addr", "add", f"10.99.{number}.{end + 1}/30", "dev", name)
        _ip("-n", namespace, "link", "set", name, "up")
        return fd

    def address(self, seen_from: str, host: str) -> str:
        """The IP address of ``host`` on its link with ``seen_from``."""
        return self._addresses[seen_from, host]

    def fare(self, one: str, other: str, fate: Fate) -> None:
        """What happens to packets between two hosts from now on, in both directions."""
        self._fates[one, other] = self._fates[other, one] = fate

    def fare_one_way(self, source: str, to: str, fate: Fate) -> None:
        """The same for one direction."""
        self._fates[source, to] = fate

    def _carry(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic()
            while self._late and self._late[0][0] <= now:
                _, _, fd, packet = heapq.heappop(self._late)
                _write(fd, packet)
            wait_s = min(0.05, self._late[0][0] - now) if self._late else 0.05
            for fd in readable([*self._links, *self._lans], wait_s):
                if fd in self._lans:
                    self._pass_on(fd)
                else:
                    self._drain(fd)

    def _pass_on(self, fd: int) -> None:
        for _ in range(64):
            try:
                frame = os.read(fd, _PACKET_BYTES)
            except BlockingIOError:
                return
            for other in self._lans[fd]:
                _write(other, frame)

    def _drain(self, fd: int) -> None:
        source, to, far = self._links[fd]
        for _ in range(64):
            try:
                packet = os.read(fd, _PACKET_BYTES)
            except BlockingIOError:
                return
            fate, chance = self._fates[source, to], self._chance
            lost, doubled = chance.random() < fate.loss, chance.random() < fate.duplicate
            if lost or fate.cut:
                self.lost += 1
                continue
            for _ in range(1 + doubled):
                self.carried += 1
                due = time.monotonic() + max(0.0, fate.delay_ms + chance.uniform(-1, 1) * fate.jitter_ms) / 1000
                heapq.heappush(self._late, (due, self.carried, far, packet))


def _opened(name: str, flags: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    return fd


def _write(fd: int, packet: bytes) -> None:
    try:
        os.write(fd, packet)
    except OSError:
        return  # A full queue loses packets, as networks do.


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
