"""The answers of ``status``, ``id``, ``config`` and ``state.vector``, for a running node or for a data dir at rest."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import asdict

from msgspec import Struct

from crabnet import __version__, limits
from crabnet.core.core import Core
from crabnet.domain.model import FactKind, SeedStatus
from crabnet.operations import info
from crabnet.operations.children import ChildHealth
from crabnet.operations.dht import Dht
from crabnet.protocol.feed import Feeds
from crabnet.protocol.identity import ALGORITHM, Signer
from crabnet.runner.sandbox.model import SandboxReport
from crabnet.settings import Settings, shown


class Live(Struct, frozen=True, kw_only=True):
    """Values that only an open node has. Without one they have their defaults."""

    listen_addr: str | None = None
    running: bool = False
    uptime_ms: int = 0
    clock_ahead_ms: int = 0
    entries_in_flight: int = 0
    envelopes_served: int = 0
    bytes_served: int = 0
    serves_dropped: int = 0
    unsent: int = 0
    runs_running: int = 0
    runs_queued: int = 0
    events_written: int = 0
    events_dropped: int = 0
    events_failed: int = 0
    counters: dict[str, int] = {}
    children: list[ChildHealth] = []
    dht: Dht | None = None


def identity_view(signer: Signer, settings: Settings) -> info.Identity:
    """The identity of a node."""
    return info.Identity(
        node_id=signer.node_id,
        key_id=signer.key_id,
        public_key=urlsafe_b64encode(signer.public_key).decode().rstrip("="),
        alg=ALGORITHM,
        alias=settings.alias,
        namespace=settings.namespace,
    )


def config_view(settings: Settings) -> info.Config:
    """The effective settings of a node, as text."""
    return info.Config(settings=shown(settings))


def heads_view(feeds: Feeds) -> dict[str, list[int | str]]:
    """The version vector: for each author the seq and id of the head, and the end of the feed if it has one."""
    return {
        feed.author: [feed.head_seq, feed.head_id, *([feed.end] if feed.end else [])]
        for feed in feeds.all()
        if feed.head_seq or feed.end
    }


def sandbox_view(report: SandboxReport | None) -> info.Sandbox:
    """The sandbox, for ``status``. ``report`` is None while the self-test of a node is not done."""
    if report is None:
        return info.Sandbox(mode="unknown", detail="the self-test is not done yet")
    values: dict[str, int] = asdict(report.limits)
    return info.Sandbox(
        mode=report.mode,
        detail=report.detail,
        chosen_by=report.choice.value,
        profiles=[profile.value for profile in report.profiles],
        limits={
            name: info.RunLimit(value=value, by=report.enforced_by[name].value if name in report.enforced_by else None)
            for name, value in values.items()
        },
        self_test_ms=report.duration_ms,
        tried={
            attempt.mode.value: info.SandboxAttempt(
                usable=attempt.usable, ms=attempt.duration_ms, detail=attempt.detail
            )
            for attempt in report.attempts
        },
    )


def status_view(
    settings: Settings, core: Core, live: Live, sandbox: info.Sandbox, *, state_hash: str, state_lsn: int, lsn: int
) -> info.Status:
    """The answer of ``status``. ``lsn`` is the last frame that is durable."""
    replica, neighbours = core.replica, core.neighbours
    state = replica.state
    return info.Status(
        version=__version__,
        node_id=core.signer.node_id,
        key_id=core.signer.key_id,
        alias=settings.alias,
        namespace=settings.namespace,
        network=settings.network,
        listen_addr=live.listen_addr,
        running=live.running,
        uptime_ms=live.uptime_ms,
        state_hash=state_hash,
        state_lsn=state_lsn,
        lsn=lsn,
        seeds={each.value: state.counts[each] + state.archived[each] for each in SeedStatus},
        archived=sum(state.archived.values()),
        bids=state.totals[FactKind.BID],
        claims=state.totals[FactKind.CLAIM],
        results=state.totals[FactKind.RESULT],
        feeds=len(replica.feeds),
        parked=len(replica.parking),
        lacking=len(replica.parking.lacking()),
        seen=len(replica.seen),
        peers=neighbours.peers_total,
        clock_ahead_ms=live.clock_ahead_ms,
        relayed=neighbours.relay.relayed,
        peers_remembered=len(neighbours.book),
        sync=info.SyncStatus(
            missing_feeds=len(neighbours.planner),
            entries_in_flight=live.entries_in_flight,
            envelopes_served=live.envelopes_served,
            bytes_served=live.bytes_served,
            serves_dropped=live.serves_dropped,
        ),
        unsent=live.unsent,
        runs=info.RunCounts(
            running=live.runs_running,
            queued=live.runs_queued,
            running_max=settings.runner_runs_max,
            queued_max=settings.runner_queue_max,
        ),
        feed_risk=core.feed_risk,
        feed_unconfirmed=neighbours.guard.waits,
        equivocators=replica.feeds.equivocators()[-limits.EQUIVOCATORS_SHOWN_MAX :],
        equivocators_total=len(replica.feeds.equivocators()),
        sandbox=sandbox,
        children=live.children,
        dht=live.dht,
        events=info.EventCounts(written=live.events_written, dropped=live.events_dropped, failed=live.events_failed),
        counters=live.counters,
    )
