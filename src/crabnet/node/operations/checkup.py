"""Performs the operation ``doctor``: what a running node knows about its own health."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import trio

from crabnet import limits
from crabnet.core.sync.gauges import SyncGauges
from crabnet.errors import Reason, StorageFailedError
from crabnet.node.clock import NodeClock
from crabnet.node.lagging import NodeGauges, sending_lag, sync_lag
from crabnet.node.node import Node
from crabnet.node.operations.dht import dht_view, peers_of
from crabnet.node.operations.overview import health
from crabnet.node.operations.performing import reads
from crabnet.node.quarantine import kept_faults
from crabnet.operations.children import ChildState
from crabnet.operations.health import DOCTOR, Check, Examination, Verdict
from crabnet.operations.model import Empty
from crabnet.runner.sandbox.model import Mode
from crabnet.storage.ledger import DiskSpace

_CHECKPOINT_LATE: Final = 4
"""A checkpoint is late when the journal after it has this many times the configured size."""


@reads(DOCTOR)
async def doctor(node: Node, _: Empty) -> Examination:
    """Check this node."""
    space = await trio.to_thread.run_sync(node.ledger.disk_space)
    faults = await trio.to_thread.run_sync(kept_faults, node.files, node.settings.data_dir)
    gauges = node.gauges()
    checks = [each for step in _STEPS for each in step(node, gauges)]
    checks += [*_disk(space), *_faults(faults), *(await _readiness(node))]
    return Examination(ok=all(each.verdict is not Verdict.FAILED for each in checks), checks=checks)


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, verdict=Verdict.OK, detail=detail, remedy="")


def _warn(name: str, detail: str, remedy: str, reason: Reason | None = None) -> Check:
    return Check(
        name=name,
        verdict=Verdict.WARNING,
        detail=detail,
        remedy=remedy,
        reason=None if reason is None else reason.value,
    )


def _fail(name: str, detail: str, remedy: str, reason: Reason) -> Check:
    return Check(name=name, verdict=Verdict.FAILED, detail=detail, remedy=remedy, reason=reason.value)


def _settings(node: Node, _: NodeGauges) -> Iterator[Check]:
    """Settings with which a node is open to what it otherwise refuses."""
    settings = node.settings
    risky = (
        (not settings.require_signatures, "require_signatures = false", "unsigned envelopes are accepted"),
        (not settings.clock_check, "clock_check = false", "a wrong clock is not noticed"),
        (settings.accept_feed_risk, "accept_feed_risk = true", "an outdated copy of the data dir is not noticed"),
        (not settings.refuse_equivocators, "refuse_equivocators = false", "authors that have forked are traded with"),
    )
    found = [(setting, effect) for is_set, setting, effect in risky if is_set]
    for setting, effect in found:
        yield _warn("settings", f"{setting}: {effect}", "remove the setting if you do not need it")
    if not found:
        yield _ok("settings", "no setting weakens the node")


def _ledger(node: Node, _: NodeGauges) -> Iterator[Check]:
    ledger = node.ledger
    if ledger.failure is not None:
        yield _fail(
            "ledger", ledger.failure.message, "check the disk, then start the node again", Reason.STORAGE_FAILED
        )
    elif ledger.replay_bytes > _CHECKPOINT_LATE * node.settings.checkpoint_journal_bytes:
        detail = f"{ledger.replay_bytes} bytes of the journal come after the last checkpoint, so a start takes long"
        yield _warn("ledger", detail, "look for checkpoint_failed in `crabnet events`")
    else:
        checkpoint = "no checkpoint yet" if ledger.checkpoint_lsn is None else f"checkpoint {ledger.checkpoint_lsn}"
        yield _ok("ledger", f"frame {ledger.last_lsn} is durable, {checkpoint}")
    if node.history.is_damaged:
        detail = "the index of the journal was damaged and is being built again"
        yield _warn("index", detail, "wait; if it happens again, check the disk")


def _events(_: Node, gauges: NodeGauges) -> Iterator[Check]:
    events = gauges.events
    if events is None:
        yield _warn("events", "this node writes no event log", "look for the cause in the lines of the start")
    elif events.failing:
        detail = f"the event log cannot be written: {events.last_error}"
        yield _warn("events", detail, "check the disk and the rights of monitor_events", Reason.STORAGE_FAILED)
    elif events.dropped:
        detail = f"{events.dropped} events were lost since the start, {events.dropped_alerts} of them alerts"
        yield _warn("events", detail, "check the disk of the event log", Reason.LIMIT_EXCEEDED)
    else:
        yield _ok("events", f"{events.written} events were written since the start, {events.queued} wait")


def _sync(node: Node, gauges: NodeGauges) -> Iterator[Check]:
    sync: SyncGauges = gauges.sync
    lacks = f"{sync.envelopes_missing} envelopes of {sync.feeds_missing} feeds are missing"
    if sync_lag(node.settings, gauges).level >= 1:
        detail = f"{lacks}, the oldest for {sync.oldest_want_ms // 1000} s"
        yield _warn("sync", detail, "look at `crabnet sync`: if the numbers do not fall, check the link to that peer")
    else:
        yield _ok("sync", lacks)
    sending = sending_lag(node.settings, gauges)
    if sending.level >= 1:
        detail = f"{sending.fields.get('count')} messages wait, the oldest for {sending.fields.get('oldest_ms')} ms"
        yield _warn("sending", detail, "look for send_failed in `crabnet events`; check network and announce_addrs")


def _peers(node: Node, _: NodeGauges) -> Iterator[Check]:
    neighbours = node.core.neighbours
    if not neighbours.peers_total:
        remedy = "check announce_addrs and bootstrap_peers, the firewall, and that the peers run in this namespace"
        yield _warn("peers", "no other node has been heard", remedy)
    else:
        yield _ok("peers", f"{neighbours.peers_total} peers are there")
    for peer in peers_of(node):
        called = "/".join([peer.address, *peer.names])
        if peer.configured and peer.refused_reason is not None:
            detail = f"messages of {called} are refused: {peer.refused_reason}: {peer.refused_detail}"
            yield _warn("peers", detail, "both nodes need the same namespace, version and time")


def _dht(node: Node, _: NodeGauges) -> Iterator[Check]:
    """The part in the dht network."""
    view = dht_view(node)
    if view is None:
        return
    if view.state is not ChildState.RUNNING:
        detail = f"the libp2p process does not run ({view.state.value}): {view.detail or 'it is being started'}"
        yield _warn("dht", detail, "look for child_failed in `crabnet events`", view.reason)
    elif not view.peers:
        remedy = "check bootstrap_peers: `crabnet events --kind bootstrap_failed` says which of them do not answer"
        yield _warn("dht", "no libp2p peer is connected", remedy, Reason.NO_PEERS)
    else:
        restarted = f", restarted {view.restarts} times" if view.restarts else ""
        yield _ok("dht", f"{view.peers} libp2p peers are connected, reachability {view.reachability}{restarted}")


def _feed(node: Node, _: NodeGauges) -> Iterator[Check]:
    """Whether this node may write."""
    core = node.core
    own = core.replica.feeds.get(node.node_id)
    if own.end:
        detail = f"this node's key has signed two envelopes for place {own.end}, so its feed has ended"
        yield _fail("feed", detail, "stop the node and run `crabnet id renew`", Reason.FEED_ENDED)
    elif core.feed_risk:
        detail = f"{core.neighbours.guard.doubt or 'peers may hold more of this feed'}: this node writes nothing"
        remedy = "connect to a peer that knows this node; docs/OPERATIONS.md says what to do without one"
        yield _fail("feed", detail, remedy, Reason.FEED_RISK)
    elif core.neighbours.guard.waits:
        yield _warn("feed", "the node waits until a peer says how far its feed goes", "wait, or check the peers")
    else:
        yield _ok("feed", f"this node has signed {own.head_seq} envelopes")


def _clock(node: Node, _: NodeGauges) -> Iterator[Check]:
    suspicion = node.core.clock_suspicion(node.clock_ms())
    ahead_ms = node.clock_ms.ahead_ms if isinstance(node.clock_ms, NodeClock) else 0
    if suspicion:
        yield _fail("clock", suspicion, "set the clock, for example with NTP", Reason.CLOCK_SUSPECT)
    elif abs(ahead_ms) > node.settings.clock_follow_ms:
        detail = f"the system's clock was set, and is {ahead_ms} ms ahead of the node's time"
        yield _warn("clock", detail, "if the system's clock is right now, start the node again")
    else:
        yield _ok("clock", "no peer contradicts this node's clock")


def _runs(node: Node, _: NodeGauges) -> Iterator[Check]:
    name, report = "sandbox", node.runner.report
    if report is None:
        yield _warn(name, "the self-test is not done yet", "ask again in some seconds")
    elif report.fence is None:
        yield _warn(name, report.detail, "`crabnet config verify` tries it again", Reason.SANDBOX_UNAVAILABLE)
    elif report.fence.mode is Mode.NONE:
        yield _warn(name, "runs have the rights of this node's user", "set runner_sandbox = auto")
    else:
        yield _ok(name, report.summary)
    turns = node.run_manager.turns
    counts = f"{turns.running} runs go on, {turns.queued} wait"
    if node.run_manager.stopping:
        yield _warn("runs", f"the node is about to end; {counts}", "wait until it has ended", Reason.NODE_STOPPING)
    elif turns.paused:
        yield _warn("runs", f"runs are paused; {counts}", "`crabnet runs resume` lets them start again")
    elif turns.queued >= turns.queue_max:
        yield _warn("runs", f"{counts}, and no further one is taken", "raise runner_runs_max", Reason.QUEUE_FULL)
    else:
        yield _ok("runs", counts)


def _disk(space: DiskSpace) -> Iterator[Check]:
    if space.is_low:
        detail = f"{space.free_bytes} bytes are free on the disk of the data dir"
        yield _warn("disk", detail, f"free at least {limits.DISK_FREE_LOW_BYTES} bytes", Reason.DISK_FULL)
    else:
        yield _ok("disk", f"{space.free_bytes} bytes are free")


def _faults(kept: int) -> Iterator[Check]:
    if kept:
        remedy = "send `crabnet debug bundle` to the developers, then remove quarantine/"
        yield _warn("faults", f"{kept} unexpected errors are kept in quarantine/", remedy, Reason.INTERNAL)
    else:
        yield _ok("faults", "no unexpected error is kept")


async def _readiness(node: Node) -> list[Check]:
    """What those who look after processes are told about the node."""
    try:
        doubts = [doubt.detail for doubt in (await health(node, Empty())).reasons]
    except StorageFailedError as error:
        doubts = [error.message]
    if doubts:
        return [_warn("ready", f"the node is not ready: {'; '.join(doubts)}", "see the other checks, or wait")]
    return [_ok("ready", "the node says that it is ready")]


_STEPS: Final[tuple[Callable[[Node, NodeGauges], Iterator[Check]], ...]] = (
    _settings, _ledger, _events, _sync, _peers, _dht, _feed, _clock, _runs,
)  # fmt: skip
