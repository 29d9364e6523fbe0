"""Measures the dht network beside UDP, with real nodes on loopback: delays, and late joiners.

Everything is done over both networks in turns, so other load of the machine affects both alike.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

from msgspec import Struct

from bench.catchup import apart, fill
from bench.dht_nodes import (
    AT_REST,
    MAKERS,
    Spent,
    applied_ms,
    everywhere,
    making,
    publish,
)
from bench.report import Measure, at_least, percentile, spread
from crabnet.errors import CrabnetError
from tests.support.dht import DhtNode
from tests.support.nodes import NodeProcess, Nodes, wait_for

GROUP: Final = "The dht network"
_ENVELOPES: Final = 20_000
_SETTLE_S: Final = 60.0
_POLL_S: Final = 0.05
_PAUSE_S: Final = 0.05


def measure(*, quick: bool) -> list[Measure]:
    """Delays and late joiners over both networks."""
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name:
        return [*_delays(Path(name), 60 if quick else 300), *_late_joiners(Path(name), 2 if quick else 5)]


# --- delays --------------------------------------------------------------------------------------------------


def _delays(directory: Path, count: int) -> list[Measure]:
    """From the call that publishes until the other node has applied it, two nodes each, in turns."""
    with making(directory / "delays") as nodes:
        pairs = {network: make(nodes, 2, None) for network, make in MAKERS.items()}
        stated: dict[str, dict[str, float]] = {network: {} for network in pairs}
        for _ in range(count):
            for network, (publisher, _) in pairs.items():
                at_ms = time.time() * 1000
                stated[network][publish(publisher)] = at_ms
                time.sleep(_PAUSE_S)
        took = {}
        for network, (_, other) in pairs.items():
            everywhere([other], count, _SETTLE_S)
            took[network] = took_ms(stated[network], [other])
    udp, dht = took["UDP"], took["dht"]
    ratio = statistics.median(dht) / statistics.median(udp)
    return [
        Measure(GROUP, "published to applied: UDP, p50", statistics.median(udp), "ms", note=f"p99 {_p99(udp):.1f} ms"),
        Measure(GROUP, "published to applied: dht, p50", statistics.median(dht), "ms", note=f"p99 {_p99(dht):.1f} ms"),
        Measure(GROUP, "the same, dht to UDP", ratio, "", note=f"p99: {_p99(dht) / _p99(udp):.2f}; {count} each"),
    ]


def took_ms(stated: dict[str, float], others: Sequence[NodeProcess]) -> list[float]:
    """How long each seed took to each of the nodes."""
    took = []
    for other in others:
        applied = applied_ms(other)
        took += [applied[seed_id] - at_ms for seed_id, at_ms in stated.items() if seed_id in applied]
    return took


def _p99(samples: list[float]) -> float:
    return percentile(samples, 99)


# --- late joiners --------------------------------------------------------------------------------------------


class _Joined(Struct, frozen=True):
    """Envelopes per second, and processor time of each process in microseconds for each envelope."""

    per_s: float
    cpu_us: dict[str, float]


def _late_joiners(directory: Path, rounds: int) -> list[Measure]:
    """A node fetches the whole history of another, over both networks in turns."""
    joined: dict[str, list[_Joined]] = {"UDP": [], "dht": []}
    with making(directory / "joiners") as nodes:
        sources = {}
        for network in joined:
            data_dir = nodes.directory / f"source-{network}"
            data_dir.parent.mkdir(exist_ok=True)
            apart(fill, data_dir, _ENVELOPES)
            sources[network] = _node(nodes, network, data_dir.name, None).start()
        for number in range(rounds):
            for network, source in sources.items():
                joined[network].append(_join(nodes, network, f"joiner-{network}-{number}", source))
    rates = {network: [each.per_s for each in found] for network, found in joined.items()}
    ratios = [dht / udp for dht, udp in zip(rates["dht"], rates["UDP"], strict=True)]
    note = (
        f"{_ENVELOPES:,} envelopes of 16 authors, from the first that came to the last; best {max(rates['dht']):,.0f}"
    )
    return [
        Measure(GROUP, "late joiner: UDP", statistics.median(rates["UDP"]), "1/s"),
        Measure(GROUP, "late joiner: dht", statistics.median(rates["dht"]), "1/s", at_least(5_000), note),
        Measure(GROUP, "late joiner: dht to UDP", statistics.median(ratios), "", at_least(1), spread(ratios)),
        *(each for network, found in joined.items() for each in _processor_time(network, found)),
    ]


def _processor_time(network: str, found: list[_Joined]) -> list[Measure]:
    """Of the run that needed least."""
    best = min(found, key=lambda each: sum(each.cpu_us.values()))
    label = f"processor time, {network}"
    return [
        *(Measure(GROUP, f"{label}: {name}", cpu_us, "µs") for name, cpu_us in best.cpu_us.items()),
        Measure(GROUP, f"{label}: all", sum(best.cpu_us.values()), "µs", note="for each envelope, without starts"),
    ]


def _node(nodes: Nodes, network: str, name: str, source: NodeProcess | None) -> NodeProcess:
    if network == "UDP":
        return nodes.make(name, [] if source is None else [source.listen], *AT_REST)
    known = [source.multiaddr] if isinstance(source, DhtNode) else []
    return DhtNode(nodes, name, known, [], *AT_REST)


def _held(node: NodeProcess) -> int:
    heads = cast("dict[str, tuple[int, str]]", node.ask("state.vector")["heads"])
    return sum(seq for seq, _ in heads.values())


def _join(nodes: Nodes, network: str, name: str, source: NodeProcess) -> _Joined:
    at_source = Spent(source)
    joiner = _node(nodes, network, name, source)
    joiner.launch()
    wait_for("the node answers", lambda: _answers(joiner))
    at_joiner = Spent(joiner)
    begun_s = time.perf_counter()
    deadline_s = begun_s + 2 * _SETTLE_S
    while (held := _held(joiner)) < _ENVELOPES:
        if time.perf_counter() > deadline_s:
            raise RuntimeError(f"only {held} envelopes arrived over {network}")
        if not held:
            begun_s, at_joiner = time.perf_counter(), Spent(joiner)
        time.sleep(_POLL_S)
    seconds = time.perf_counter() - begun_s
    spent = {f"joiner, {name}": cpu_s for name, cpu_s in at_joiner.so_far().items()}
    spent |= {f"source, {name}": cpu_s for name, cpu_s in at_source.so_far().items()}
    joiner.ready()
    if joiner.state_hash() != source.state_hash():
        raise RuntimeError("the states differ")
    joiner.end()
    return _Joined(_ENVELOPES / seconds, {name: cpu_s * 1e6 / _ENVELOPES for name, cpu_s in spent.items()})


def _answers(node: NodeProcess) -> bool:
    with suppress(CrabnetError, OSError):
        return "children" in node.ask("status")
    return False
