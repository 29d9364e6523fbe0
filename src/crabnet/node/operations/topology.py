"""What a node knows of the network: the nodes, and the ways from it to them. For the operation ``topology``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from crabnet import __version__, limits
from crabnet.core.core import Core
from crabnet.core.sync.gauges import SyncGauges
from crabnet.core.sync.peers import Introduction
from crabnet.operations import info
from crabnet.operations.network import Knowledge, Path, Topology, TopologyEdge, TopologyNode
from crabnet.source import is_p2p


class Place(NamedTuple):
    """Where the view is made: by a running node or not, and when, in milliseconds since the epoch."""

    alias: str
    running: bool
    now_ms: int


def topology_view(core: Core, peers: Iterable[info.Peer], gauges: SyncGauges, place: Place) -> Topology:
    """The topology. ``peers`` are those of the operation ``peers``."""
    found = list(peers)
    edges = _direct(core, found, gauges)
    reached = {edge.node_id for edge in edges if edge.node_id is not None}
    own = core.signer.node_id
    others = core.neighbours.peers.others()
    authors = sorted({*core.replica.feeds.authors(), *others} - {own, *reached})
    by_address = {edge.address: edge.node_id for edge in edges}
    edges += [_relayed(core, author, by_address) for author in authors[: limits.TOPOLOGY_NODES_MAX]]
    nodes = _nodes(core, edges, others, place)
    return Topology(
        node_id=own,
        running=place.running,
        at_ms=place.now_ms,
        nodes=nodes[: limits.TOPOLOGY_NODES_MAX],
        edges=edges[: limits.TOPOLOGY_NODES_MAX],
        nodes_total=1 + len(reached) + len(authors),
        edges_total=len(found) + len(authors),
    )


def _direct(core: Core, peers: list[info.Peer], gauges: SyncGauges) -> list[TopologyEdge]:
    neighbours = core.neighbours
    behind = {each.address: each for each in gauges.neighbours}
    edges = []
    for peer in peers:
        known = behind.get(peer.address)
        edges.append(
            TopologyEdge(
                node_id=peer.node_id,
                address=peer.address,
                names=peer.names,
                path=Path.DIRECT,
                transport="dht" if is_p2p(peer.address) else "udp",
                via=None,
                via_address=None,
                sources=_sources_of(core, peer),
                confirmed=peer.confirmed or (peer.configured and neighbours.is_present(peer.address)),
                last_seen_ms=peer.last_seen_ms,
                silent_ms=peer.silent_ms,
                round_trip_ms=neighbours.peers.round_trip_ms(peer.address),
                feeds_behind=None if known is None else known.feeds_behind,
                envelopes_behind=None if known is None else known.envelopes_behind,
                feeds_ahead=None if known is None else known.feeds_ahead,
                envelopes_ahead=None if known is None else known.envelopes_ahead,
                failures=peer.failures,
                refused_reason=peer.refused_reason,
            )
        )
    return edges


def _sources_of(core: Core, peer: info.Peer) -> list[Knowledge]:
    """Where the knowledge about an address comes from."""
    neighbours = core.neighbours
    heard = neighbours.peers.last_heard_ms(peer.address) is not None
    measured = peer.confirmed or neighbours.peers.round_trip_ms(peer.address) is not None
    sources = [Knowledge.MEASURED] if measured else []
    if heard and not measured:
        sources.append(Knowledge.TOLD)
    if neighbours.book.has(peer.address) or (is_p2p(peer.address) and peer.last_seen_ms is not None and not heard):
        sources.append(Knowledge.REMEMBERED)
    if peer.configured:
        sources.append(Knowledge.CONFIGURED)
    return sources


def _relayed(core: Core, author: str, by_address: Mapping[str | None, str | None]) -> TopologyEdge:
    via = core.neighbours.relay.provider(author)
    return TopologyEdge(
        node_id=author,
        address=None,
        names=[],
        path=Path.RELAYED,
        transport=None,
        via=by_address.get(via),
        via_address=via or None,
        sources=[Knowledge.TOLD],
        confirmed=False,
        last_seen_ms=None,
        silent_ms=None,
        round_trip_ms=None,
        feeds_behind=None,
        envelopes_behind=None,
        feeds_ahead=None,
        envelopes_ahead=None,
        failures=0,
        refused_reason=None,
    )


def _nodes(
    core: Core, edges: list[TopologyEdge], others: Mapping[str, Introduction], place: Place
) -> list[TopologyNode]:
    """The own node, then those at the ends of the edges, each once."""
    feeds, peers = core.replica.feeds, core.neighbours.peers
    own = core.signer.node_id
    nodes = [
        TopologyNode(
            node_id=own,
            alias=place.alias,
            agent=f"crabnet/{__version__}",
            own=True,
            sources=[Knowledge.MEASURED if place.running else Knowledge.CONFIGURED],
            equivocator=feeds.is_equivocator(own),
            head_seq=feeds.get(own).head_seq,
        )
    ]
    ways: dict[str, list[TopologyEdge]] = {}
    for edge in edges:
        if edge.node_id is not None:
            ways.setdefault(edge.node_id, []).append(edge)
    for node_id, found in ways.items():
        said = others.get(node_id)
        for edge in found:
            if edge.address and (told := peers.introduction(edge.address)).agent:
                said = told
                break
        nodes.append(
            TopologyNode(
                node_id=node_id,
                alias="" if said is None else said.alias,
                agent="" if said is None else said.agent,
                own=False,
                sources=list(dict.fromkeys(source for edge in found for source in edge.sources)),
                equivocator=feeds.is_equivocator(node_id),
                head_seq=feeds.get(node_id).head_seq,
            )
        )
    return nodes
