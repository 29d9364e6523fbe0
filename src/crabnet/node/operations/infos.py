"""Performs the operations that show the node, its peers and its replica, and the import."""

from __future__ import annotations

from crabnet.node.clock import NodeClock
from crabnet.node.node import Node
from crabnet.node.operations.dht import dht_view, own_addresses, peers_of
from crabnet.node.operations.importing import import_entries
from crabnet.node.operations.performing import reads, writes
from crabnet.node.operations.requests import Ticket
from crabnet.node.operations.status import (
    Live,
    config_view,
    heads_view,
    identity_view,
    sandbox_view,
    status_view,
)
from crabnet.operations import info
from crabnet.operations.model import Empty


@reads(info.ID)
async def identity(node: Node, _: Empty) -> info.Identity:
    """The identity of this node."""
    return identity_view(node.core.signer, node.settings)


@reads(info.CONFIG)
async def config(node: Node, _: Empty) -> info.Config:
    """The effective settings."""
    return config_view(node.settings)


@reads(info.PEERS)
async def peers(node: Node, _: Empty) -> info.PeerList:
    """The peers."""
    return info.PeerList(peers=peers_of(node), own_addresses=own_addresses(node))


@reads(info.VECTOR)
async def vector(node: Node, _: Empty) -> info.Vector:
    """The version vector, as of the last durable frame."""
    heads: dict[str, list[int | str]] = {}
    lsns: list[int] = []
    await node.committer.boundary(
        lambda: heads.update(heads_view(node.core.replica.feeds)), lambda: lsns.append(node.ledger.last_lsn)
    )
    return info.Vector(namespace=node.settings.namespace, node_id=node.node_id, lsn=lsns[0], heads=heads)


@writes(info.IMPORT)
async def import_(node: Node, given: info.ImportRequest, _: Ticket) -> info.Imported:
    """Import envelopes, facts and proofs. To repeat it changes nothing, because the entries are held then."""
    return await import_entries(node, given.envelopes, given.facts, given.proofs)


@reads(info.STATUS)
async def status(node: Node, _: Empty) -> info.Status:
    """The node, its state and its activity."""
    now_ms = node.clock_ms()
    state_hash, state_lsn = await _state_point(node)
    events = None if node.events is None else node.events.gauges(now_ms)
    live = Live(
        listen_addr=node.listen_address,
        running=node.listen,
        uptime_ms=now_ms - node.started_ms,
        clock_ahead_ms=node.clock_ms.ahead_ms if isinstance(node.clock_ms, NodeClock) else 0,
        entries_in_flight=node.core.neighbours.planner.flow.flying,
        envelopes_served=node.serving.envelopes,
        bytes_served=node.serving.bytes,
        serves_dropped=node.serving.dropped,
        unsent=node.outbox.unsent,
        runs_running=node.run_manager.turns.running,
        runs_queued=node.run_manager.turns.queued,
        events_written=0 if events is None else events.written,
        events_dropped=0 if events is None else events.dropped,
        events_failed=0 if events is None else events.write_failures,
        children=node.children.health(),
        dht=dht_view(node),
        counters=dict(sorted(node.reporter.counters.items())),
    )
    sandbox = sandbox_view(node.runner.report if node.listen else await node.runner.prepare())
    await node.durable()
    return status_view(
        node.settings,
        node.core,
        live,
        sandbox,
        state_hash=state_hash,
        state_lsn=state_lsn,
        lsn=node.ledger.last_lsn,
    )


async def _state_point(node: Node) -> tuple[str, int]:
    """The state hash, and the lsn of the last durable frame that it covers."""
    await node.state_hash()
    hashes: list[str] = []
    lsns: list[int] = []
    await node.committer.boundary(
        lambda: hashes.append(node.core.replica.state_hash()), lambda: lsns.append(node.ledger.last_lsn)
    )
    return hashes[0], lsns[0]
