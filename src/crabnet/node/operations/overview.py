"""Performs ``overview`` and ``health``."""

from __future__ import annotations

import trio

from crabnet import __version__, limits
from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.node.node import Node
from crabnet.node.operations.dht import dht_view, process_of
from crabnet.node.operations.performing import reads
from crabnet.operations import info, overview
from crabnet.operations.children import ChildState
from crabnet.operations.model import Empty
from crabnet.operations.problems import Doubt
from crabnet.storage.ledger import DiskSpace


@reads(overview.HEALTH)
async def health(node: Node, _: Empty) -> overview.Health:
    """Whether the node is fit to work."""
    writes, disk = await _writes(node), await _disk(node)
    return _health(node, disk, node.core.sync_gauges(node.clock_ms()).envelopes_missing, writes=writes)


@reads(overview.OVERVIEW)
async def show(node: Node, _: Empty) -> overview.Overview:
    """The node at a glance, as of the last durable frame."""
    writes, disk = await _writes(node), await _disk(node)
    core, settings, now_ms = node.core, node.settings, node.clock_ms()
    replica, neighbours = core.replica, core.neighbours
    state, behind = replica.state, core.sync_gauges(now_ms).envelopes_missing
    events = None if node.events is None else node.events.gauges(now_ms)
    return overview.Overview(
        version=__version__,
        node_id=node.node_id,
        alias=settings.alias,
        namespace=settings.namespace,
        network=settings.network,
        listen_addr=node.listen_address,
        now_ms=now_ms,
        uptime_ms=max(0, now_ms - node.started_ms),
        health=_health(node, disk, behind, writes=writes),
        peers=neighbours.peers_total,
        peers_remembered=len(neighbours.book),
        seeds={each.value: state.counts[each] + state.archived[each] for each in SeedStatus},
        archived=sum(state.archived.values()),
        runs=info.RunCounts(
            running=node.run_manager.turns.running,
            queued=node.run_manager.turns.queued,
            running_max=settings.runner_runs_max,
            queued_max=settings.runner_queue_max,
        ),
        sync=info.SyncStatus(
            missing_feeds=len(neighbours.planner),
            entries_in_flight=neighbours.planner.flow.flying,
            envelopes_served=node.serving.envelopes,
            bytes_served=node.serving.bytes,
            serves_dropped=node.serving.dropped,
        ),
        behind=behind,
        parked=len(replica.parking),
        unsent=node.outbox.unsent,
        disk=overview.Disk(free_bytes=disk.free_bytes, low=disk.is_low),
        lsn=node.ledger.last_lsn,
        events=info.EventCounts(
            written=0 if events is None else events.written,
            dropped=0 if events is None else events.dropped,
            failed=0 if events is None else events.write_failures,
        ),
        events_last_id=0 if events is None else events.last_id,
        children=node.children.health(),
        dht=dht_view(node),
        equivocators=len(replica.feeds.equivocators()),
    )


async def _writes(node: Node) -> bool:
    """Whether the journal takes what is in memory, within a moment. Raises StorageFailedError."""
    with trio.move_on_after(limits.HEALTH_WRITE_MS / 1000) as scope:
        await node.durable()
    return not scope.cancelled_caught


async def _disk(node: Node) -> DiskSpace:
    return await trio.to_thread.run_sync(node.ledger.disk_space)


def _health(node: Node, disk: DiskSpace, behind: int, *, writes: bool) -> overview.Health:
    core, now_ms = node.core, node.clock_ms()
    doubts = []
    if node.ledger.failure is not None:
        doubts.append(Doubt(reason=Reason.STORAGE_FAILED.value, detail="the journal cannot be written any more"))
    elif not writes:
        detail = f"the journal has not been written for {limits.HEALTH_WRITE_MS} ms"
        doubts.append(Doubt(reason=Reason.STORAGE_FAILED.value, detail=detail))
    if disk.is_low:
        doubts.append(Doubt(reason=Reason.DISK_FULL.value, detail=f"only {disk.free_bytes} bytes are free"))
    if core.replica.settling.pending:
        detail = "the consequences of forks are being applied"
        doubts.append(Doubt(reason=Reason.UNAVAILABLE.value, detail=detail))
    if behind > limits.HEALTH_BEHIND_MAX:
        doubts.append(Doubt(reason=Reason.GAP.value, detail=f"{behind} envelopes behind its peers"))
    if core.feed_risk:
        detail = "the end of its own feed is in doubt, so it writes nothing"
        doubts.append(Doubt(reason=Reason.FEED_RISK.value, detail=detail))
    if core.clock_suspicion(now_ms):
        detail = "its clock differs from those of its peers, so it signs nothing"
        doubts.append(Doubt(reason=Reason.CLOCK_SUSPECT.value, detail=detail))
    if node.dht is not None and not node.settings.uses_udp:
        process = process_of(node)
        if process.state is not ChildState.RUNNING:
            detail = f"it has no network: the libp2p process does not run: {process.detail or process.state.value}"
            doubts.append(Doubt(reason=Reason.UNAVAILABLE.value, detail=detail))
    return overview.Health(ready=not doubts, reasons=tuple(doubts))
