"""Real nodes for the measurements of the dht network: over libp2p or datagrams, and what their processes use."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final, cast

from msgspec import Struct

from tests.support.dht import DhtNode
from tests.support.nodes import Json, NodeProcess, Nodes, wait_for

AT_REST: Final = ("--sync-interval-ms", "1000")
"""The default. Nodes of tests announce more often."""
_START_S: Final = 240
_DIALLED: Final = 4
_OPEN_MS: Final = 3_600_000
"""No seed closes by itself meanwhile."""


@contextmanager
def making(directory: Path) -> Iterator[Nodes]:
    """A maker of nodes in a directory. They are ended."""
    nodes = Nodes(directory)
    try:
        yield nodes
    finally:
        nodes.close()


def datagram_nodes(nodes: Nodes, count: int, netns: str | None = None) -> list[NodeProcess]:
    """Nodes that announce to all that were started before them, over UDP."""
    made: list[NodeProcess] = []
    for number in range(count):
        node = nodes.make(f"udp{number}", [each.listen for each in made], *AT_REST)
        node.netns = netns
        made.append(node.start())
    _await_peers(made, [count - 1] * count)
    return made


def libp2p_nodes(nodes: Nodes, count: int, netns: str | None = None) -> list[DhtNode]:
    """Nodes that dial four of those before them, over libp2p. No node finds others by itself."""
    rng = Random(count)
    made: list[DhtNode] = []
    for number in range(count):
        near = rng.sample(made, min(_DIALLED, number))
        node = DhtNode(nodes, f"dht{number}", [each.multiaddr for each in near], [], *AT_REST)
        node.netns = netns
        made.append(node.start())
    _await_peers([*made], [min(_DIALLED, count - 1)] * count)
    return made


def _await_peers(made: list[NodeProcess], least: list[int]) -> None:
    def ready() -> bool:
        return all(int(str(node.ask("status")["peers"])) >= most for node, most in zip(made, least, strict=True))

    wait_for("the nodes know each other", ready, _START_S)


class Used(Struct, frozen=True):
    """Processor time in seconds, and resident memory in MiB."""

    cpu_s: float
    memory_mib: float


def used(pid: int) -> Used:
    """What a process has used so far (proc(5): stat, fields 14 and 15; status, VmRSS)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return Used(cpu_s, kib / 1024)


def pids(node: NodeProcess) -> dict[str, int]:
    """The processes of a node: its own is "node", the others have the names of children."""
    children = cast(list[Json], node.ask("status")["children"])
    own = {} if node.process is None else {"node": node.process.pid}
    return {**own, **{str(each["name"]): pid for each in children if isinstance(pid := each.get("pid"), int)}}


class Spent:
    """Processor time of the processes of a node from now on."""

    def __init__(self, node: NodeProcess) -> None:
        self._node = node
        self._before = {pid: used(pid).cpu_s for pid in pids(node).values()}

    def so_far(self) -> dict[str, float]:
        """Seconds, by the name of the process."""
        return {name: used(pid).cpu_s - self._before.get(pid, 0.0) for name, pid in pids(self._node).items()}


def publish(node: NodeProcess) -> str:
    """Publish a seed that stays open. Returns its id."""
    return node.publish(bid_window_ms=_OPEN_MS)


def publish_steadily(nodes: list[NodeProcess], per_s: float, seconds: float) -> dict[str, float]:
    """Publish with the nodes in turns. Returns when each seed was stated, in ms since the epoch, by its id."""
    begun_s = time.monotonic()
    stated: dict[str, float] = {}
    while (passed_s := time.monotonic() - begun_s) < seconds:
        if len(stated) < passed_s * per_s:
            at_ms = time.time() * 1000
            stated[publish(nodes[len(stated) % len(nodes)])] = at_ms
        else:
            time.sleep(min(0.005, 1 / per_s))
    return stated


def applied_ms(node: NodeProcess) -> dict[str, float]:
    """When a node applied each seed first, in milliseconds since the epoch, by the times of its events. An event's time
    is cut to whole milliseconds, so half of one is added.
    """
    found: dict[str, float] = {}
    for event in node.events("seed_changed"):
        found.setdefault(str(event.payload["seed_id"]), event.ts_ms + 0.5)
    return found


def everywhere(nodes: list[NodeProcess], seeds: int, seconds: float) -> float:
    """Wait until all nodes hold so many seeds. Returns the part of all copies that arrived in that time."""
    held = [0] * len(nodes)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        held = [len(node.seed_ids()) for node in nodes]
        if min(held) >= seeds:
            break
        time.sleep(0.2)
    return sum(min(each, seeds) for each in held) / (seeds * len(nodes))


def envelope_bytes(node: NodeProcess) -> float:
    """The mean size of the envelopes that a node has sent over UDP."""
    return statistics.mean(int(str(event.payload["bytes"])) for event in node.events("announce_sent"))


class Wire(Struct, frozen=True):
    """Packets and bytes on the loopback device of a network namespace, headers and acknowledgements included."""

    packets: int
    bytes: int


def on_the_wire(netns: str) -> Wire:
    """What was sent so far."""
    shown = run_in(netns, "cat", "/proc/net/dev")
    fields = next(line for line in shown.splitlines() if line.strip().startswith("lo:")).partition(":")[2].split()
    return Wire(int(fields[1]), int(fields[0]))


def run_in(netns: str, *words: str) -> str:
    """The output of a command in a network namespace."""
    return subprocess.run(["ip", "netns", "exec", netns, *words], check=True, capture_output=True, text=True).stdout


@contextmanager
def namespace() -> Iterator[str]:
    """A network namespace of its own with a loopback device. Needs root."""
    name = f"crabnet-bench-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        run_in(name, "ip", "link", "set", "lo", "up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


Maker = Callable[[Nodes, int, str | None], list[NodeProcess]]
MAKERS: Final[dict[str, Maker]] = {
    "UDP": datagram_nodes,
    "dht": lambda nodes, count, netns: [*libp2p_nodes(nodes, count, netns)],
}
