"""What the node says of its part in the dht network."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from crabnet.node.network.dht_network import NAME
from crabnet.node.node import Node
from crabnet.node.operations.views import peer_views
from crabnet.operations.children import ChildHealth, ChildState
from crabnet.operations.dht import Dht, DhtTopic
from crabnet.operations.info import Peer
from crabnet.settings import Settings
from crabnet.settings.multiaddr import parse_multiaddr
from crabnet.transport.p2p_wire import Known, Learnt


def dht_view(node: Node) -> Dht | None:
    """The part of this node in the dht network; None without one."""
    network = node.dht
    if network is None:
        return None
    child, said, outbox = process_of(node), network.state, network.outbox
    return Dht(
        state=child.state,
        restarts=child.restarts,
        reason=child.reason,
        detail=child.detail if child.reason is not None else "",
        peers=len(outbox.peers()),
        connections=0 if said is None else said.connections,
        streams=0 if said is None else said.streams,
        addresses=own_addresses(node),
        observed=[] if said is None else said.observed,
        reachability="unknown" if said is None else said.reachability,
        relays=[] if said is None else said.relays,
        topics=[]
        if said is None
        else [DhtTopic(topic=each.topic, peers=each.peers, mesh=each.mesh) for each in said.topics],
        queued=outbox.queued,
        published=outbox.published,
        unpublished=outbox.unpublished,
        sent=outbox.sent,
        dropped=outbox.dropped,
        counters=dict(sorted(network.counted.items())),
    )


def p2p_addresses(settings: Settings, remembered: Iterable[Known]) -> list[Known]:
    """The known addresses of libp2p peers: those that have worked, and those of the settings that name their peer."""
    found = {each.address: each for each in remembered}
    for each in map(parse_multiaddr, settings.bootstrap_peers if settings.uses_dht else ()):
        if each.peer:
            known = found.get(str(each), Known(str(each), each.peer, Learnt.CONFIGURED))
            found[str(each)] = structs.replace(known, learnt=Learnt.CONFIGURED)
    return list(found.values())


def peers_of(node: Node) -> list[Peer]:
    """The peers of a running node."""
    core = node.core
    p2p = [] if node.dht is None else p2p_addresses(node.settings, node.dht.known)
    return peer_views(core.neighbours, node.targets.names(), node.clock_ms(), core.replica.feeds.is_equivocator, p2p)


def process_of(node: Node) -> ChildHealth:
    """The state of the libp2p process."""
    found = next((each for each in node.children.health() if each.name == NAME), None)
    return ChildHealth(name=NAME, state=ChildState.OFF, since_ms=node.started_ms) if found is None else found


def own_addresses(node: Node) -> list[str]:
    """Where libp2p peers can reach this node: what the process tells to others, or else where it listens."""
    if node.dht is None:
        return []
    said = node.dht.state
    return list(dict.fromkeys([*said.addresses, *said.relays] if said is not None else process_of(node).addresses))
