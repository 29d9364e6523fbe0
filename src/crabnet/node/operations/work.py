"""Performs the operations of a worker."""

from __future__ import annotations

from collections import Counter

from crabnet import limits
from crabnet.core.core import Core
from crabnet.core.trading.commitments import Stage
from crabnet.core.trading.selling import Offer
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.record import Record
from crabnet.market.policies import Declined
from crabnet.market.quote import hindrance
from crabnet.node.node import Node
from crabnet.node.operations.performing import reads
from crabnet.node.seeds import find_seeds
from crabnet.operations import work
from crabnet.operations.model import Empty
from crabnet.settings import Settings


@reads(work.STATUS)
async def status(node: Node, _: Empty) -> work.WorkStatus:
    """What this worker does."""
    core, turns, session = node.core, node.run_manager.turns, node.working.session
    commitments = core.trading.seller.commitments
    obstacle = hindrance(core.config.work, core.trading.surroundings.machine())
    debts = commitments.debts()
    shown = sorted(debts.items(), key=lambda each: (-each[1].price, each[0]))[: limits.WORK_DEBTORS_SHOWN_MAX]
    reasons = Counter(declined.reason.value for _, declined in core.trading.declined())
    await node.durable()
    return work.WorkStatus(
        auto_bid=core.config.auto_bid,
        auto_run=core.config.auto_run,
        reason=None if obstacle is None else obstacle.reason.value,
        detail=None if obstacle is None else obstacle.detail,
        policy=_policy(node.settings),
        running=turns.running,
        queued=turns.queued,
        open_bids=commitments.count(Stage.BID) + commitments.count(Stage.OLD_BID),
        claimed=commitments.count(Stage.WON) + commitments.count(Stage.RUNNING),
        session=work.WorkSession(
            since_ms=session.since_ms,
            bids=session.bids,
            results=session.results,
            accepted=session.accepted,
            rejected=session.rejected,
            forfeited=session.forfeited,
            earned=session.earned,
        ),
        owed=sum(debt.price for debt in debts.values()),
        owed_results=sum(debt.results for debt in debts.values()),
        owed_by=[work.Debtor(publisher=each, results=debt.results, price=debt.price) for each, debt in shown],
        declined=[work.Declining(reason=reason, count=count) for reason, count in sorted(reasons.items())],
    )


def _policy(settings: Settings) -> work.WorkTerms:
    return work.WorkTerms(
        price=settings.work_price,
        price_per_s=settings.work_price_per_s,
        price_per_mib=settings.work_price_per_mib,
        min_price=settings.work_min_price,
        schedule=settings.work_schedule,
        only=list(settings.work_only),
        never=list(settings.work_never),
        min_settled=settings.work_min_settled,
        max_unsettled=settings.work_unsettled_max,
        max_load=settings.work_load_max,
        min_battery=settings.work_battery_min,
        max_timeout_ms=settings.work_timeout_max_ms,
        allow=list(settings.runner_allowed_commands),
        max_running=settings.runner_runs_max,
    )


@reads(work.OFFERS)
async def offers(node: Node, given: work.OffersRequest) -> work.OfferPage:
    """A page of open tasks with what this worker would do with each."""
    await node.runner.prepare()
    page = offer_page(node.core, given, node.clock_ms())
    await node.durable()
    return page


def offer_page(core: Core, given: work.OffersRequest, now_ms: int) -> work.OfferPage:
    """A page of open tasks. Raises RefusedError if the task ``given.after`` is unknown."""
    after, me = None, core.signer.node_id
    if given.after is not None:
        definition = core.record(given.after).definition
        after = None if definition is None else (definition.created_at, given.after)

    def is_others(record: Record) -> bool:
        return record.seed is not None and record.seed.author != me and is_biddable(record, now_ms // 1000)

    found = find_seeds(
        core.replica.state.records,
        lambda **_: [],
        now_ms // 1000,
        status=None,
        limit=given.limit + 1,
        after=after,
        wanted=is_others,
    )
    shown = found[: given.limit]
    made = (core.trading.offer(each.seed_id, each.record, now_ms) for each in shown)
    more = len(found) > given.limit
    return work.OfferPage(
        offers=[_row(offer) for offer in made if offer is not None], next=shown[-1].seed_id if more else None
    )


def _row(offer: Offer) -> work.WorkOffer:
    seed, quoted = offer.seed, offer.quoted
    declined = quoted if isinstance(quoted, Declined) else None
    return work.WorkOffer(
        seed_id=offer.seed_id,
        title=seed.title,
        command=seed.command,
        publisher=seed.created_by,
        timeout_ms=seed.timeout_ms,
        reward=seed.reward,
        bid_deadline_ts=seed.bid_deadline_ts,
        price=quoted.price if isinstance(quoted, Declined) else quoted,
        reason=None if declined is None else declined.reason.value,
        detail=None if declined is None else declined.detail,
        bid=offer.bid,
    )
