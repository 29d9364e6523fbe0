"""An internet of network namespaces: hosts on one public network, and hosts behind routers with NAT. Needs root.

A router does what a home router does: it masks what its hosts send (netfilter's MASQUERADE), and drops what nobody has
asked for. The public addresses look like addresses of the internet; nothing leaves the namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import pytest

from tests.support.dht import DhtNode
from tests.support.nodes import Nodes

PUBLIC = "11.77.0"
"""The first three parts of the public addresses."""


PORT = 9_012


def needs_nat() -> None:
    """Skip, loudly, where routers with NAT cannot be made."""
    for missing, what in (
        (os.geteuid() != 0, "root"),
        (shutil.which("ip") is None, "the program ip (iproute2)"),
        (shutil.which("iptables") is None, "the program iptables"),
    ):
        if missing:
            pytest.skip(f"NOT TESTED: real nodes behind NAT; missing: {what}")
    probe = f"nat{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, *_masquerade("lo", symmetric=False))
    except OSError as error:
        pytest.skip(f"NOT TESTED: real nodes behind NAT; {error}")
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)


class Internet:
    """``with Internet() as internet``: make hosts, then start nodes with ``netns`` in their namespaces."""

    def __init__(self) -> None:
        self._made: list[str] = []
        self._next = 0
        self.addresses: dict[str, str] = {}
        """The public address of a host, or of the router before it."""

    def __enter__(self) -> Self:
        self._namespace("net")
        self._in("net", "ip", "link", "add", "bridge", "type", "bridge")
        self._in("net", "ip", "link", "set", "bridge", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def namespace(self, host: str) -> str:
        """The name of a host's namespace."""
        return f"nat{os.getpid()}-{host}"

    def public(self, host: str) -> str:
        """Make a host with a public address; returns that."""
        self._namespace(host)
        self._next += 1
        address = f"{PUBLIC}.{self._next}"
        self._cable(host, "wan", "net", f"port{self._next}")
        self._in("net", "ip", "link", "set", f"port{self._next}", "master", "bridge")
        self._in(host, "ip", "addr", "add", f"{address}/24", "dev", "wan")
        self.addresses[host] = address
        return address

    def behind(self, *hosts: str, symmetric: bool = False) -> str:
        """Make hosts behind one router; returns its public address. A symmetric router takes a random port for each
        connection, another one keeps the port of the host if it can.
        """
        router = f"{hosts[0]}-router"
        address = self.public(router)
        self._in(router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        self._in(router, *_masquerade("wan", symmetric=symmetric))
        for chain in ("FORWARD", "INPUT"):
            rule = ("-A", chain, "-i", "wan", "-m", "conntrack", "--ctstate", "ESTABLISHED,RELATED", "-j", "ACCEPT")
            self._in(router, "iptables", *rule)
            self._in(router, "iptables", "-A", chain, "-i", "wan", "-j", "DROP")
        for number, host in enumerate(hosts, start=1):
            self._namespace(host)
            self._cable(host, "lan", router, f"lan{number}")
            self._in(router, "ip", "addr", "add", f"192.168.{number}.1/24", "dev", f"lan{number}")
            self._in(host, "ip", "addr", "add", f"192.168.{number}.2/24", "dev", "lan")
            self._in(host, "ip", "route", "add", "default", "via", f"192.168.{number}.1")
            self.addresses[host] = address
        return address

    def node(self, nodes: Nodes, host: str, bootstrap: Iterable[str] = (), *words: str) -> DhtNode:
        """A node on a host of this internet, not started yet. ``bootstrap`` are multiaddrs."""
        node = DhtNode(nodes, host, bootstrap, [], *words)
        node.netns = self.namespace(host)
        node.tcp = f"/ip4/0.0.0.0/tcp/{PORT}"
        return node

    def multiaddr(self, node: DhtNode) -> str:
        """Where a node with a public address is dialled."""
        return f"/ip4/{self.addresses[node.data_dir.name]}/tcp/{PORT}/p2p/{node.node_id}"

    def _namespace(self, host: str) -> None:
        _run("ip", "netns", "add", self.namespace(host))
        self._made.append(self.namespace(host))
        self._in(host, "ip", "link", "set", "lo", "up")

    def _cable(self, one: str, name: str, other: str, other_name: str) -> None:
        far = ("peer", "name", other_name, "netns", self.namespace(other))
        _run("ip", "-n", self.namespace(one), "link", "add", name, "type", "veth", *far)
        self._in(one, "ip", "link", "set", name, "up")
        self._in(other, "ip", "link", "set", other_name, "up")

    def _in(self, host: str, *words: str) -> None:
        _run("ip", "netns", "exec", self.namespace(host), *words)


def _masquerade(device: str, *, symmetric: bool) -> list[str]:
    rule = ["iptables", "-t", "nat", "-A", "POSTROUTING", "-o", device, "-j", "MASQUERADE"]
    return [*rule, "--random-fully"] if symmetric else rule


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
