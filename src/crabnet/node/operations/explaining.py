"""Performs the operation ``seed.why``, in a node or from the files."""

from __future__ import annotations

from msgspec.structs import replace

from crabnet.core.core import Core
from crabnet.core.sweeper import lease_of
from crabnet.domain.lifecycle import status_at
from crabnet.domain.record import Record
from crabnet.errors import Reason
from crabnet.market.heard import count
from crabnet.market.policies import Declined
from crabnet.market.stages import Here, Stage, StageState
from crabnet.market.why import headline, why
from crabnet.node.execution.prechecks import fit
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads
from crabnet.operations import market
from crabnet.operations.remedies import remedy


@reads(market.WHY)
async def explain(node: Node, given: market.WhyRequest) -> market.Why:
    """Why a task is where it is."""
    explained = _explain(node.core.record(given.seed_id), _seen_by(node, given.seed_id))
    await node.durable()
    return explained


def explain_from_files(core: Core, given: market.WhyRequest, now_ms: int) -> market.Why:
    """The same from the files of a data dir: what a node that runs would know is not known."""
    record = core.record(given.seed_id)
    return _explain(record, _known(core, given.seed_id, record, now_ms))


def _explain(record: Record, here: Here) -> market.Why:
    stages, seed = why(record, here), record.definition
    return market.Why(
        seed_id="" if seed is None else seed.id,
        status=status_at(record, here.now_s),
        title="" if seed is None else seed.title,
        headline=headline(record, stages, here.now_s),
        stages=[_shown(stage, here.node_id) for stage in stages],
        declines=[
            market.DeclinedBy(reason=each.reason, workers=each.workers, price_min=each.price_min)
            for each in count(here.declines)
        ],
    )


def _shown(stage: Stage, node_id: str) -> market.WhyStage:
    pending = stage.state in {StageState.WAITING, StageState.FAILED}
    return market.WhyStage(
        stage=stage.name,
        state=stage.state,
        text=stage.text,
        waits_for=stage.waits_for,
        mine=stage.waits_for == node_id,
        since_ts=stage.since_s,
        until_ts=stage.until_s,
        reason=None if stage.reason is None else stage.reason.value,
        change=stage.change or ("" if stage.reason is None or not pending else remedy(stage.reason)),
    )


def _known(core: Core, seed_id: str, record: Record, now_ms: int) -> Here:
    """What follows from stored data alone."""
    progress, lease_ms = record.progress, lease_of(record)
    run = record.run
    heard_s = progress.renewed_at or (None if run is None else run.body.created_at)
    parties = {fact.author for fact in (record.seed, *record.bids, record.claim) if fact is not None}
    unsigned, reason = _unsigned(core, now_ms)
    return Here(
        node_id=core.signer.node_id,
        now_ms=now_ms,
        equivocators=frozenset(filter(core.replica.feeds.is_equivocator, parties)),
        terms=core.trading.terms_of(seed_id, record),
        grace_ms=core.config.execution_grace_ms,
        auto_bid=core.config.auto_bid,
        auto_run=core.config.auto_run,
        lease_until_s=None if lease_ms is None or heard_s is None else heard_s + -(-lease_ms // 1000),
        heard_s=heard_s,
        unsigned=unsigned,
        unsigned_reason=reason,
    )


def _unsigned(core: Core, now_ms: int) -> tuple[str, Reason | None]:
    """Why the node signs nothing at the moment."""
    end = core.replica.feeds.get(core.signer.node_id).end
    if end:
        return f"its feed has ended at place {end}", Reason.FEED_ENDED
    if core.feed_risk:
        return core.neighbours.guard.doubt, Reason.FEED_RISK
    suspicion = core.clock_suspicion(now_ms)
    return (suspicion, Reason.CLOCK_SUSPECT) if suspicion else ("", None)


def _seen_by(node: Node, seed_id: str) -> Here:
    """What a node that runs knows."""
    core, now_ms = node.core, node.clock_ms()
    record = core.record(seed_id)
    known = _known(core, seed_id, record, now_ms)
    seed, runs = record.definition, node.run_manager
    sent = node.deliveries.known("" if record.seed is None else record.seed.envelope)
    offer = core.trading.offer(seed_id, record, now_ms)
    view = runs.view(seed_id)
    objection: Declined | None = None
    if seed is not None and record.progress.claimed_by == known.node_id:
        found = fit(runs.runner, seed)
        objection = found if isinstance(found, Declined) else None
    return replace(
        known,
        runs=node.listen,
        peers=core.neighbours.peers_total,
        heard_by=None if sent is None else sent.peers,
        declines=core.declining.of(seed_id),
        offer=None if offer is None else offer.quoted,
        objection=objection,
        paused=runs.turns.paused,
        draining=runs.stopping,
        local_run="" if view is None else view.stage.value,
        queue_position=None if view is None else view.position,
    )
