"""Performs ``metrics``: gathers what the parts of the node count, and what they hold at the moment."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import Final

import trio

from crabnet import __version__
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.monitor import metrics as table
from crabnet.monitor.metrics import METRICS, NONE
from crabnet.monitor.registry import EventKind
from crabnet.node.clock import NodeClock
from crabnet.node.durable.sizes import DiskSizes
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads
from crabnet.operations import metrics
from crabnet.operations.children import ChildState
from crabnet.operations.gathering import Gathering
from crabnet.operations.model import Empty
from crabnet.protocol.topics import item_of
from crabnet.transport.p2p_wire import Path as Way

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@reads(metrics.METRICS)
async def metrics_(node: Node, _: Empty) -> metrics.Metrics:
    """The metrics of this node."""
    gathering = Gathering()
    disk = await node.disk_look.sizes()
    if disk is not None:
        _put_disk(gathering, disk)
    _put_events(gathering, node)
    _put_traffic(gathering, node)
    _put_state(gathering, node)
    _put_ledger(gathering, node)
    _put_peers(gathering, node)
    _put_lags(gathering, node)
    _put_dht(gathering, node)
    _put_runs(gathering, node)
    _put_process(gathering, node)
    return metrics.Metrics(families=gathering.families(METRICS))


def _put_disk(gathering: Gathering, disk: DiskSizes) -> None:
    gathering.put(table.DISK_FREE, disk.free_bytes)
    gathering.put(table.DISK_SIZE, disk.size_bytes)
    gathering.put(table.DISK_LOW, disk.is_low)
    gathering.put(table.JOURNAL_BYTES, disk.journal_bytes)
    gathering.put(table.JOURNAL_SEGMENTS, disk.journal_segments)


def _put_events(gathering: Gathering, node: Node) -> None:
    reporter = node.reporter
    for name, count in reporter.counters.items():
        kind, _, reason = name.partition(".")
        metric = table.BY_EVENT.get(EventKind(kind))
        if metric is not None:
            gathering.put(metric, count, reason or NONE)
    for (kind, of), count in reporter.envelopes.items():
        created = kind == EventKind.ENVELOPE_CREATED
        gathering.put(table.ENVELOPES_CREATED if created else table.ENVELOPES_ACCEPTED, count, of)
    for kind, severity, count in reporter.events():
        gathering.put(table.EVENTS, count, kind, severity)


def _put_traffic(gathering: Gathering, node: Node) -> None:
    stats = node.transport.stats
    gathering.put(table.DATAGRAMS_RECEIVED, stats.datagrams_received)
    gathering.put(table.RECEIVED_BYTES, stats.bytes_received)
    gathering.put(table.DATAGRAMS_SENT, stats.datagrams_sent)
    gathering.put(table.SENT_BYTES, stats.bytes_sent)
    gathering.put(table.SOCKET_ERRORS, stats.receive_errors, "in")
    gathering.put(table.SOCKET_ERRORS, stats.send_errors, "out")
    gathering.put(table.RELAYED, node.core.neighbours.relay.relayed)
    gathering.put(table.SERVED, node.serving.envelopes)
    gathering.put(table.SERVED_BYTES, node.serving.bytes)
    gathering.put(table.SERVES_DROPPED, node.serving.dropped)
    gathering.histogram(table.MESSAGE_HANDLING, node.meters.message_handling)


def _put_state(gathering: Gathering, node: Node) -> None:
    replica = node.core.replica
    state = replica.state
    for status in SeedStatus:
        gathering.put(table.SEEDS, state.counts[status] + state.archived[status], status.value)
    gathering.put(table.SEEDS_ARCHIVED, sum(state.archived.values()))
    gathering.put(table.BIDS, state.totals[FactKind.BID])
    gathering.put(table.CLAIMS, state.totals[FactKind.CLAIM])
    gathering.put(table.RESULTS, state.totals[FactKind.RESULT])
    gathering.put(table.FEEDS, len(replica.feeds))
    gathering.put(table.EQUIVOCATORS, len(replica.feeds.equivocators()))
    gathering.put(table.PARKED, len(replica.parking))
    gathering.put(table.PARKED_BYTES, replica.parking.bytes)
    gathering.put(table.LACKING, len(replica.parking.lacking()))
    gathering.put(table.SEEN, len(replica.seen))
    gathering.put(table.FEED_RISK, node.core.feed_risk)


def _put_ledger(gathering: Gathering, node: Node) -> None:
    meters, ledger = node.meters, node.ledger
    gathering.histogram(table.FSYNC, meters.fsync)
    gathering.histogram(table.COMMIT, meters.commit)
    gathering.histogram(table.COMMIT_RECORDS, meters.commit_records)
    gathering.histogram(table.COMMIT_BYTES, meters.commit_bytes)
    records, size = node.committer.queued
    gathering.put(table.COMMIT_QUEUE, records)
    gathering.put(table.COMMIT_QUEUE_BYTES, size)
    gathering.put(table.JOURNAL_LSN, ledger.last_lsn)
    gathering.put(table.REPLAY_BYTES, ledger.replay_bytes)
    gathering.put(table.CHECKPOINT_LSN, ledger.checkpoint_lsn or 0)
    if node.checkpointer.written_ms is not None:
        gathering.put(table.CHECKPOINT_AGE, max(0, node.clock_ms() - node.checkpointer.written_ms) / 1000)
    gathering.put(table.ARCHIVE_SEGMENTS, len(node.core.replica.archived.segments))
    gathering.put(table.REPLAYED_FRAMES, node.replayed.frames)
    for (outcome, reason), count in node.replayed.envelopes.items():
        gathering.put(table.REPLAYED_ENVELOPES, count, outcome, reason or NONE)


def _put_peers(gathering: Gathering, node: Node) -> None:
    neighbours = node.core.neighbours
    confirmed = set(neighbours.around())
    silent = neighbours.trusted - confirmed
    gathering.put(table.PEERS, len(confirmed), "confirmed")
    gathering.put(table.PEERS, len(silent), "silent")
    remembered = {peer.address for peer in neighbours.book.peers(neighbours.peers.heard_ms)}
    gathering.put(table.PEERS, len(remembered - confirmed - silent), "remembered")


def _put_lags(gathering: Gathering, node: Node) -> None:
    gauges = node.gauges()
    sync, sending, events = gauges.sync, gauges.sending, gauges.events
    lacks = [each.envelopes_ahead or 0 for each in sync.neighbours]
    gathering.put(table.PEERS_BEHIND, sum(map(bool, lacks)))
    gathering.put(table.PEER_BEHIND_MAX, max(lacks, default=0))
    gathering.put(table.SYNC_FEEDS, sync.feeds_missing)
    gathering.put(table.SYNC_ENVELOPES, sync.envelopes_missing)
    gathering.put(table.SYNC_AGE, sync.oldest_want_ms / 1000)
    gathering.put(table.SYNC_NAMED, sync.wanted_by_name)
    gathering.put(table.SYNC_FLYING, sync.envelopes_in_flight)
    gathering.put(table.OUTBOX_MESSAGES, sending.queued)
    gathering.put(table.OUTBOX_AGE, sending.oldest_queued_ms / 1000)
    gathering.put(table.UNSENT, sending.unsent)
    gathering.put(table.UNSENT_AGE, sending.oldest_unsent_ms / 1000)
    gathering.put(table.TARGETS_FAILING, sending.targets_failing)
    gathering.put(table.SENDS_DROPPED, sending.dropped)
    if events is None:
        return
    gathering.put(table.EVENTS_WRITTEN, events.written)
    for kind in EventKind:
        gathering.put(table.EVENTS_DROPPED, events.dropped_by_kind.get(kind.value, 0), kind.value)
    gathering.put(table.EVENT_FAILURES, events.write_failures)
    gathering.put(table.EVENT_QUEUE, events.queued)
    gathering.put(table.EVENT_AGE, events.oldest_unwritten_ms / 1000)
    gathering.put(table.EVENT_BYTES, events.bytes_behind)


def _put_dht(gathering: Gathering, node: Node) -> None:
    network = node.dht
    if network is None:
        return
    outbox, said, counted = network.outbox, network.state, network.counted
    gathering.put(table.DHT_PEERS, len(outbox.peers()))
    gathering.put(table.DHT_CONNECTIONS, 0 if said is None else said.connections)
    gathering.put(table.DHT_STREAMS, 0 if said is None else said.streams)
    for each in () if said is None else said.topics:
        channel = item_of(each.topic, node.settings.namespace)
        gathering.put(table.DHT_TOPIC_PEERS, each.peers, channel)
        gathering.put(table.DHT_MESH_PEERS, each.mesh, channel)
    gathering.put(table.DHT_QUEUED, outbox.queued)
    gathering.put(table.DHT_PUBLISHED, outbox.published)
    gathering.put(table.DHT_DROPPED, outbox.dropped)
    for way in Way:
        gathering.put(table.DHT_RECEIVED, counted[f"{way.value}_received"], way.value)
        gathering.put(table.DHT_SENT, counted[f"{way.value}_sent"], way.value)
    gathering.put(table.DHT_REFUSED_CONNECTIONS, counted["connections_refused"])
    gathering.put(table.DHT_STREAM_ERRORS, counted["stream_errors"])
    gathering.put(table.DHT_OVERFLOW, counted["gossip_overflow"])


def _put_runs(gathering: Gathering, node: Node) -> None:
    turns, settings = node.run_manager.turns, node.settings
    gathering.put(table.RUNS, turns.running, "running")
    gathering.put(table.RUNS, turns.queued, "queued")
    gathering.put(table.RUNS_MAX, settings.runner_runs_max, "running")
    gathering.put(table.RUNS_MAX, settings.runner_queue_max, "queued")
    for cause, histogram in node.meters.run_duration.items():
        gathering.histogram(table.RUN_DURATION, histogram, cause)
    gathering.histogram(table.RUN_QUEUED, node.meters.run_queued)
    report = node.runner.report
    gathering.put(table.SANDBOX, 1, "unknown" if report is None else report.mode)


def _put_process(gathering: Gathering, node: Node) -> None:
    clock = node.clock_ms
    gathering.put(table.BUILD, 1, __version__, platform.python_version())
    gathering.put(table.UPTIME, max(0, clock() - node.started_ms) / 1000)
    gathering.put(table.STARTED, node.started_ms / 1000)
    gathering.put(table.CLOCK_AHEAD, clock.ahead_ms / 1000 if isinstance(clock, NodeClock) else 0)
    gathering.histogram(table.LOOP_DELAY, node.meters.loop_delay)
    gathering.put(table.LOOP_DELAY_MAX, node.meters.loop_delay_max.at(int(trio.current_time() * 1000)))
    for child in node.children.health():
        gathering.put(table.CHILD_UP, child.state is ChildState.RUNNING, child.name)
        gathering.put(table.CHILD_RESTARTS, child.restarts, child.name)
    gathering.put(table.CPU, time.process_time())
    gathering.put(table.MAX_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        gathering.put(table.MEMORY, resident_pages * _PAGE_BYTES)
        gathering.put(table.OPEN_FDS, len(os.listdir("/proc/self/fd")) - 1)  # noqa: PTH208  # it is quicker
    except OSError:
        return  # there is no /proc
