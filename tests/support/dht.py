"""Real nodes in the dht network, on loopback: each with its libp2p process, or with UDP beside it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from typing import cast

import pytest

from crabnet.errors import CrabnetError
from tests.support.nodes import Json, NodeProcess, Nodes, wait_for

needs_libp2p = pytest.mark.skipif(
    find_spec("libp2p") is None, reason="LIBP2P IS NOT INSTALLED: the dht network is NOT tested (run `make env`)"
)
_QUIET = ("--no-dht-mdns", "--dht-rendezvous", "off")
"""Nodes of a test know each other by their bootstrap peers only."""


class DhtNode(NodeProcess):
    """A node with ``network = dht``, or ``udp,dht``. ``bootstrap`` are multiaddrs, ``peers`` addresses of datagrams."""

    def __init__(self, nodes: Nodes, name: str, bootstrap: Iterable[str], peers: Iterable[str], *words: str) -> None:
        super().__init__(nodes.directory / name, peers, *words)
        self.with_udp = "udp" in _value(words, "--network", "dht")
        self.bootstrap = tuple(bootstrap)
        self._own_words = words
        self.tcp = "127.0.0.1:0"
        self._udp = "127.0.0.1:0"
        nodes.made.append(self)

    def launch(self) -> None:
        """See ``NodeProcess``."""
        tcp = self.tcp if self.tcp.startswith("/") or not self.with_udp else "/ip4/127.0.0.1/tcp/0"
        self.listen = f"{self._udp},{tcp}" if self.with_udp else tcp
        network = () if "--network" in self._own_words else ("--network", "dht")
        self.words = (*network, "--bootstrap-peers", ",".join(self.bootstrap), *_QUIET, *self._own_words)
        super().launch()

    def ready(self) -> None:
        """Wait until both the node and its libp2p process are there. Both keep their ports from then on."""
        wait_for(f"{self.data_dir.name} to start: {self.errors()}", self._is_there)
        self.node_id = str(self.ask("id")["node_id"])
        self.tcp = self.multiaddr.rpartition("/p2p/")[0]
        if self.with_udp:
            event = self.events("listener_started", transport="udp")[-1]
            self.listen = self._udp = str(event.payload["address"])

    def _is_there(self) -> bool:
        assert self.running, self.errors()
        with suppress(CrabnetError, OSError):
            return bool(self.multiaddr)
        return False

    @property
    def multiaddr(self) -> str:
        """Where libp2p peers reach it; "" while its libp2p process does not run."""
        addresses = cast(list[str], self.child().get("addresses", []))
        return addresses[0] if addresses else ""

    def child(self) -> Json:
        """What the node says of its libp2p process."""
        children = cast(list[Json], self.ask("status")["children"])
        return next((each for each in children if each["name"] == "libp2p"), {})

    def end_child(self, pid: int) -> None:
        """kill -9 to the libp2p process."""
        os.kill(pid, signal.SIGKILL)

    def start(self) -> DhtNode:
        """See ``NodeProcess``."""
        super().start()
        return self

    def knows(self, count: int) -> None:
        """Wait until so many peers are connected."""
        wait_for(f"{self.data_dir.name} has {count} peers", lambda: len(self.p2p_peers()) >= count)

    def p2p_peers(self) -> list[str]:
        """The libp2p peers that are connected."""
        shown = cast(list[Json], self.ask("peers")["peers"])
        return [str(each["address"]) for each in shown if str(each["address"]).startswith("p2p:") and each["confirmed"]]


def _value(words: tuple[str, ...], flag: str, default: str) -> str:
    return words[words.index(flag) + 1] if flag in words else default


def dht_node(nodes: Nodes, name: str, bootstrap: Iterable[DhtNode] = (), *words: str) -> DhtNode:
    """A node over dht only that listens and has these bootstrap peers."""
    return DhtNode(nodes, name, [each.multiaddr for each in bootstrap], [], *words).start()
