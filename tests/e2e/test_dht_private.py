"""A private network of real nodes: members trade, strangers get nothing, and the key is found nowhere."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

import pytest

from tests.support.dht import DhtNode, dht_node, needs_libp2p
from tests.support.nat import Internet, needs_nat
from tests.support.nodes import DEADLINE_S, NodeProcess, Nodes, converge, crabnet, quiet, wait_for, whole_job

pytestmark = needs_libp2p

HEAD: Final = "/key/swarm/psk/1.0.0/\n/base16/\n"
HELLO: Final = b"\x13/multistream/1.0.0\n"
NONCE_BYTES: Final = 24


def key_file(directory: Path, name: str = "network.key") -> tuple[str, str, bytes]:
    """The flag and the path of a new key, and the key."""
    key = os.urandom(32)
    path = directory / name
    path.write_text(f"{HEAD}{key.hex()}\n", encoding="ascii")
    path.chmod(0o600)
    return "--dht-network-key-file", str(path), key


@pytest.mark.deep
def test_members_trade_and_strangers_get_nothing(nodes: Nodes) -> None:
    flag, path, key = key_file(nodes.directory)
    publisher = dht_node(nodes, "publisher", [], flag, path)
    worker = dht_node(nodes, "worker", [publisher], flag, path)
    publisher.knows(1)
    members = [publisher, worker]
    _, other, _ = key_file(nodes.directory, "other.key")
    keyless = dht_node(nodes, "keyless", members)
    mistaken = dht_node(nodes, "mistaken", members, flag, other)
    seed_id = whole_job(publisher, worker)
    converge([publisher, worker], [seed_id])
    for stranger in (keyless, mistaken):
        for member in members:
            stranger.await_event("bootstrap_failed", address=member.multiaddr)
        assert not stranger.p2p_peers()
        assert not stranger.seed_ids()
    reasons = {str(each.payload["reason"]) for each in mistaken.events("bootstrap_failed")}
    assert reasons == {"wrong_network_key"}
    for member in members:
        for words in ("as in the open network", "has another key"):
            wait_for(f"what is known of strangers: {words}", partial(said, member, words))
        assert len(member.p2p_peers()) == 1
        assert refused(member) >= 2
        the_key_is_nowhere(member, key)


def said(node: NodeProcess, words: str) -> bool:
    return any(words in str(each.payload["detail"]) for each in node.events("strangers_refused"))


def the_key_is_nowhere(node: DhtNode, key: bytes) -> None:
    """Neither in what processes show of themselves, nor in any file of the node, nor in its log."""
    forms = [key, key.hex().encode(), key.hex().upper().encode()]
    pid = node.process.pid if node.process else 0
    shown = [Path(f"/proc/{each}/{name}") for each in (pid, node.child()["pid"]) for name in ("cmdline", "environ")]
    files = [each for each in node.data_dir.rglob("*") if each.is_file() and each.name != "lock"]
    for path in [*shown, *files]:
        content = path.read_bytes()
        assert not [form for form in forms if form in content], path
    assert key.hex() not in node.errors()


@pytest.mark.deep
def test_a_relay_is_no_hole_in_a_private_network(nodes: Nodes) -> None:
    """Members behind NAT trade through a member; whoever has no key reaches neither the relay nor anybody behind it."""
    needs_nat()
    flag, path, _ = key_file(nodes.directory)
    with Internet() as internet:
        for name in ("publisher", "worker", "stranger"):
            internet.behind(name)
        internet.public("relay")
        relay = internet.node(nodes, "relay", [], flag, path, "--dht-relay", "server").start()
        address = internet.multiaddr(relay)
        publisher = internet.node(nodes, "publisher", [address], flag, path).start()
        behind = f"{address}/p2p-circuit/p2p/{publisher.node_id}"
        worker = internet.node(nodes, "worker", [address, behind], flag, path).start()
        wait_for("the call through the relay", lambda: f"p2p:{publisher.node_id}" in worker.p2p_peers())
        stranger = internet.node(nodes, "stranger", [address, behind]).start()
        seed_id = whole_job(publisher, worker)
        converge([relay, publisher, worker], [seed_id])
        for each in (address, behind):
            stranger.await_event("bootstrap_failed", address=each)
        wait_for("the relay refuses the stranger", lambda: refused(relay))
        assert not stranger.p2p_peers()
        assert not stranger.seed_ids()
        assert not refused(publisher)


STRANGERS: Final = {
    "nothing": (b"", {0}),
    "the hello of libp2p": (HELLO, {0}),
    "the hello and noise": (HELLO + b"\x07/noise\n", {0}),
    "a part of a nonce": (b"x" * 23, {0}),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", {0, NONCE_BYTES}),
    "random bytes": (os.urandom(200), {0, NONCE_BYTES}),
}
"""What a stranger says, and how many bytes it may get: none, or a nonce."""


@pytest.mark.deep
def test_a_stranger_learns_nothing_of_the_protocol(nodes: Nodes) -> None:
    flag, path, _ = key_file(nodes.directory)
    node = dht_node(nodes, "node", [], flag, path)
    words = node.multiaddr.split("/")
    with ExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.create_connection((words[2], int(words[4])), DEADLINE_S))
            for name in STRANGERS
        }
        for name, (says, _) in STRANGERS.items():
            sockets[name].sendall(says)
        for name, (_, sizes) in STRANGERS.items():
            heard = everything(sockets[name])
            assert len(heard) in sizes, name
            assert b"multistream" not in heard
    wait_for("all are counted", lambda: refused(node) == len(STRANGERS))


def everything(stranger: socket.socket) -> bytes:
    heard = b""
    with suppress(ConnectionResetError):
        while data := stranger.recv(1_000):
            heard += data
    return heard


def refused(node: DhtNode) -> int:
    return cast(dict[str, int], node.ask("status")["counters"]).get("strangers_refused", 0)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [(f"{HEAD}{'0' * 64}\n", 0o644, "unsafe_permissions"), (f"{HEAD}00\n", 0o600, "64 hexadecimal digits")],
)
def test_a_node_does_not_start_with_a_bad_key_file(nodes: Nodes, content: str, mode: int, says: str) -> None:
    path = nodes.directory / "network.key"
    path.write_text(content, encoding="ascii")
    path.chmod(mode)
    words = ["--network", "dht", "--dht-network-key-file", str(path)]
    done = crabnet("listen", *quiet(nodes.directory / "node"), *words)
    assert done.returncode != 0
    assert says in done.stderr
