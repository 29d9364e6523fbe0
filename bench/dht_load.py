"""Measures networks of several real nodes under a steady load, over libp2p and over UDP: what goes over the wire until
an envelope is everywhere, how long that takes, and what the processes use.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bench.dht import took_ms
from bench.dht_nodes import (
    MAKERS,
    Used,
    Wire,
    envelope_bytes,
    everywhere,
    making,
    namespace,
    on_the_wire,
    pids,
    publish_steadily,
    used,
)
from bench.report import Measure, at_least, percentile
from tests.support.nodes import NodeProcess

TRAFFIC: Final = "The dht network: traffic"
SOAK: Final = "The dht network: five nodes, 8 messages a second"
_SETTLE_S: Final = 60.0
_REST_S: Final = 10.0
_NODES: Final = 5
_PER_S: Final = 8.0


def measure_traffic(*, quick: bool) -> list[Measure]:
    """Packets and bytes until an envelope is at all nodes. Needs root, for network namespaces."""
    if shutil.which("ip") is None:
        raise RuntimeError("the program ip (iproute2) is missing")
    found = []
    for count in (5,) if quick else (5, 20):
        sizes: list[float] = []
        for network in MAKERS:
            found += _traffic(network, count, 20.0 if quick else 40.0, sizes)
    return found


def _traffic(network: str, count: int, seconds: float, sizes: list[float]) -> list[Measure]:
    """``sizes`` gets the size of an envelope from the first network, and gives it to the others."""
    stated: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name,
        namespace() as netns,
        making(Path(name)) as nodes,
    ):
        members = MAKERS[network](nodes, count, netns)
        time.sleep(2)
        idle, idle_s = _sent_while(netns, lambda: time.sleep(_REST_S))
        sent, sent_s = _sent_while(netns, lambda: stated.update(publish_steadily(members, _PER_S, seconds)))
        share = everywhere(members, len(stated), _SETTLE_S)
        if not sizes:
            sizes.append(envelope_bytes(members[0]))
    arrivals = len(stated) * (count - 1)
    talk = sent_s / idle_s
    packets = (sent.packets - idle.packets * talk) / arrivals
    sent_bytes = (sent.bytes - idle.bytes * talk) / arrivals / sizes[0]
    label = f"{count} nodes, {network}"
    note = f"with talk {sent.packets / arrivals:.2f}; {share:.1%} arrived"
    size = f"with talk {sent.bytes / arrivals / sizes[0]:.2f}; envelopes of {sizes[0]:.0f} bytes"
    return [
        Measure(TRAFFIC, f"{label}: packets for each arrival", packets, "", note=note),
        Measure(TRAFFIC, f"{label}: bytes to those of the envelope", sent_bytes, "", note=size),
        Measure(TRAFFIC, f"{label}: idle", idle.bytes / idle_s / count / 1000, "kB/s", note="for each node"),
    ]


def _sent_while(netns: str, act: Callable[[], object]) -> tuple[Wire, float]:
    """What was sent during an action, and how many seconds it took."""
    before, begun_s = on_the_wire(netns), time.monotonic()
    act()
    after = on_the_wire(netns)
    return Wire(after.packets - before.packets, after.bytes - before.bytes), time.monotonic() - begun_s


class _Load(NamedTuple):
    """The part of all copies that arrived, the delays, and processor time in shares of a processor and memory of each
    process: nodes first, then libp2p processes, if there are any.
    """

    share: float
    took_ms: list[float]
    idle: list[Used]
    busy: list[Used]


def measure_soak(*, quick: bool) -> list[Measure]:
    """Five nodes, over libp2p and then over UDP."""
    loads = {network: _soak(network, 10.0 if quick else 60.0) for network in ("dht", "UDP")}
    found = []
    for network, load in loads.items():
        note = f"{len(load.took_ms)} delays"
        found += [
            Measure(SOAK, f"{network}: delivered", 100 * load.share, "%", at_least(100)),
            Measure(SOAK, f"{network}: published to applied, p50", statistics.median(load.took_ms), "ms", note=note),
            Measure(SOAK, f"{network}: published to applied, p99", percentile(load.took_ms, 99), "ms"),
            *_use(network, "node", load.idle[:_NODES], load.busy[:_NODES]),
            *_use(network, "libp2p process", load.idle[_NODES:], load.busy[_NODES:]),
        ]
    ratio = statistics.median(loads["dht"].took_ms) / statistics.median(loads["UDP"].took_ms)
    return [*found, Measure(SOAK, "published to applied, p50, dht to UDP", ratio, "")]


def _use(network: str, process: str, idle: list[Used], busy: list[Used]) -> list[Measure]:
    if not idle:
        return []
    cpu, memory = (statistics.mean(each.cpu_s for each in load) * 100 for load in (idle, busy))
    size, size_busy = (statistics.mean(each.memory_mib for each in load) for load in (idle, busy))
    label = f"{network}: {process}"
    return [
        Measure(SOAK, f"{label}: processor", memory, "%", note=f"idle {cpu:.2f} %; mean of {len(idle)}"),
        Measure(SOAK, f"{label}: memory", size_busy, "MiB", note=f"idle {size:.0f} MiB"),
    ]


def _soak(network: str, seconds: float) -> _Load:
    stated: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name, making(Path(name)) as nodes:
        members = MAKERS[network](nodes, _NODES, None)
        time.sleep(2)
        idle = _used_while(members, lambda: time.sleep(_REST_S))
        busy = _used_while(members, lambda: stated.update(publish_steadily(members, _PER_S, seconds)))
        share = everywhere(members, len(stated), _SETTLE_S)
        if len({node.state_hash() for node in members}) != 1:
            raise RuntimeError(f"the states differ over {network}")
        took = [each for each in took_ms(stated, members) if each > 0]
    return _Load(share, took, idle, busy)


def _used_while(members: list[NodeProcess], act: Callable[[], object]) -> list[Used]:
    """The share of a processor that each process has used meanwhile, and its memory afterwards."""
    of_all = [pids(node) for node in members]
    all_pids = [each[name] for name in ("node", "libp2p") for each in of_all if name in each]
    before, begun_s = [used(pid).cpu_s for pid in all_pids], time.monotonic()
    act()
    seconds = time.monotonic() - begun_s
    after = [used(pid) for pid in all_pids]
    return [
        Used((each.cpu_s - spent_s) / seconds, each.memory_mib) for each, spent_s in zip(after, before, strict=True)
    ]
