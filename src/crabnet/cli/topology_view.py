"""Shows the topology: as text, as JSON, or for Graphviz."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crabnet.cli.context import State, write_object
from crabnet.cli.output import write
from crabnet.plain import plain
from crabnet.source import GOSSIP

if TYPE_CHECKING:
    from crabnet.operations.network import Topology, TopologyEdge, TopologyNode

_ID_CHARS: Final = 12
"""The end of a node id, by which people tell nodes apart."""


def show_topology(state: State, form: str | None = None) -> None:
    """Print the topology. Raises CrabnetError."""
    answer = state.perform("topology", {})
    chosen = form or ("json" if state.json else "text")
    if chosen == "json":
        write_object(answer)
        return
    import msgspec

    from crabnet.operations.network import Topology

    seen = msgspec.convert(answer, Topology)
    write(topology_dot(seen) if chosen == "dot" else topology_text(seen))


def topology_text(seen: Topology) -> str:
    """The topology for people, a line for each way. Names that nodes give themselves are escaped."""
    nodes = {node.node_id: node for node in seen.nodes}
    own = nodes[seen.node_id]
    state = "running" if seen.running else "not running: what was remembered and configured"
    lines = [f"node {plain(own.node_id)} {_quoted(own.alias)} ({state})"]
    lines += [_edge_line(edge, nodes) for edge in seen.edges]
    if seen.edges_total > len(seen.edges):
        lines.append(f"and {seen.edges_total - len(seen.edges)} more")
    lines.append(f"{seen.nodes_total} nodes, {seen.edges_total} ways")
    return "".join(f"{line}\n" for line in lines)


def _edge_line(edge: TopologyEdge, nodes: dict[str, TopologyNode]) -> str:
    node = nodes.get(edge.node_id or "")
    alias = f" {_quoted(node.alias)}" if node is not None and node.alias else ""
    who = plain(edge.node_id or "unknown node") + alias
    if edge.address is None:
        through = "the libp2p network" if edge.via_address == GOSSIP else edge.via or edge.via_address or "others"
        via = f"through {plain(through)}"
        parts = ["relayed ", who, via]
    else:
        called = f" ({', '.join(map(plain, edge.names))})" if edge.names else ""
        parts = ["direct  ", f"{plain(edge.address)}{called}", edge.transport or "", who]
        parts.append("not heard" if edge.silent_ms is None else f"heard {edge.silent_ms // 1000} s ago")
        parts += [] if edge.round_trip_ms is None else [f"round trip {edge.round_trip_ms} ms"]
        parts += _differences(edge)
        parts += [f"{edge.failures} failures"] if edge.failures else []
        parts += [f"refused: {plain(edge.refused_reason)}"] if edge.refused_reason else []
    parts += ["EQUIVOCATOR"] if node is not None and node.equivocator else []
    return "  ".join([*parts, f"[{', '.join(each.value for each in edge.sources)}]"])


def _differences(edge: TopologyEdge) -> list[str]:
    found = []
    if edge.envelopes_behind:
        found.append(f"holds {edge.envelopes_behind} envelopes of {edge.feeds_behind} feeds that are missing here")
    if edge.envelopes_ahead:
        found.append(f"lacks {edge.envelopes_ahead} envelopes of {edge.feeds_ahead} feeds")
    return found


def _quoted(alias: str) -> str:
    return f'"{plain(alias)}"'


def topology_dot(seen: Topology) -> str:
    """The topology for Graphviz. Solid lines are direct ways, dashed ones relayed, dotted ones were not heard."""
    lines = ["digraph crabnet {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    for node in seen.nodes:
        label = f"{dot_text(node.alias or 'unknown')}\\n…{dot_text(node.node_id[-_ID_CHARS:])}"
        style = ", penwidth=2" if node.own else ", color=red" if node.equivocator else ""
        lines.append(f'  "{dot_text(node.node_id)}" [label="{label}"{style}];')
    for edge in seen.edges:
        start, end = edge.via or seen.node_id, edge.node_id or edge.address or ""
        if edge.node_id is None:
            lines.append(f'  "{dot_text(end)}" [label="{dot_text(end)}", style=dotted];')
        style = "dashed" if edge.address is None else "solid" if edge.silent_ms is not None else "dotted"
        label = " ".join([edge.transport or "", "" if edge.round_trip_ms is None else f"{edge.round_trip_ms} ms"])
        lines.append(f'  "{dot_text(start)}" -> "{dot_text(end)}" [label="{dot_text(label.strip())}", style={style}];')
    return "".join(f"{line}\n" for line in [*lines, "}"])


def dot_text(text: str) -> str:
    """Text for a quoted string of DOT: on one line, without escapes that Graphviz would interpret."""
    return plain(text).replace("\\", "\\\\").replace('"', '\\"')
