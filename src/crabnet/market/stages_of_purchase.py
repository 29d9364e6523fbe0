"""The stages of a task until a bid is claimed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from crabnet.domain.lifecycle import claim_deadline_s
from crabnet.domain.model import Bid, Claim, SeedStatus
from crabnet.errors import Reason
from crabnet.market.award import award
from crabnet.market.heard import summary
from crabnet.market.history import account
from crabnet.market.policies import Declined, Wait
from crabnet.market.stages import Stage, StageName, StageState, View

_S = SeedStatus
_OFFERS: Final = {
    Reason.NOT_ALLOWED: "allow it on this node: `--allow`, `runner_allowed_commands`, `runner_profiles`",
    Reason.PRICE: "lower this node's prices, or wait for better offers",
    Reason.BUSY: "wait until its bids and runs have ended, or raise `--max-running`",
    Reason.SCHEDULE: "wait, or change `--schedule`",
    Reason.TRUST: "change `--only`, `--never` or `--min-settled` of this node",
    Reason.RESOURCES: "wait, or change `--max-load`, `--min-battery` or `--max-timeout` of this node",
}
"""What would make this node bid."""
_CLAIMED: Final = frozenset({_S.CLAIMED, _S.RUNNING, _S.DONE, _S.ACCEPTED, _S.REJECTED})


def publication(at: View) -> Stage:
    """Who knows of the task."""
    here, seed = at.here, at.seed
    made = Stage(name=StageName.PUBLICATION, state=StageState.DONE, since_s=seed.created_at)
    forked = seed.created_by in here.equivocators
    if not at.is_own:
        text = f"published by {at.publisher}"
        if not forked:
            return replace(made, text=text)
        return replace(made, text=f"{text}, which has forked its feed", reason=Reason.EQUIVOCATOR)
    if at.bids or at.status is not _S.OPEN or here.declines:
        return replace(made, text="published")
    if not here.runs:
        return replace(
            made,
            state=StageState.WAITING,
            text="published, but no node runs here, so nobody can hear of it",
            reason=Reason.NODE_UNREACHABLE,
            change="start the node: `crabnet listen`",
        )
    if here.heard_by:
        return replace(made, text=f"published, sent to {_peers(here.heard_by)}")
    if here.peers == 0:
        return replace(
            made,
            state=StageState.WAITING,
            text="published, but no peer is connected, so nobody has heard of it",
            reason=Reason.NO_PEERS,
            change="name a peer (`bootstrap_peers`), or wait until one comes: `crabnet peers`, `crabnet doctor`",
        )
    to = "" if here.peers is None else f" to {_peers(here.peers)}"
    return replace(made, text=f"published; sync brings it{to}")


def bidding(at: View) -> Stage:
    """Which bids have come, and why others have not."""
    seed, now_s, count = at.seed, at.now_s, len(at.bids)
    stage = Stage(name=StageName.BIDS, state=StageState.DONE, since_s=seed.created_at)
    said = summary(at.here.declines, seed, count)
    if count:
        stage = replace(stage, text=_came(at), since_s=min(bid.created_at for bid in at.bids))
        if at.status is not _S.OPEN:
            return stage
        if seed.max_bids and count >= seed.max_bids:
            return replace(stage, text=f"{stage.text}: as many as count (max_bids)")
        if now_s > seed.bid_deadline_ts:
            return stage
        return replace(
            stage, text=f"{stage.text}; more may come{': ' + said if said else ''}", until_s=seed.bid_deadline_ts
        )
    if at.status is not _S.OPEN or now_s > seed.bid_deadline_ts:
        over = at.status is not _S.OPEN
        return replace(
            stage,
            state=StageState.FAILED,
            text=("no worker had bid when it was closed" if over else "bidding has closed, and no worker has bid")
            + (f": {said}" if said else ""),
            since_s=at.progress.settled_at if over else seed.bid_deadline_ts,
            reason=Reason.NO_BIDS,
            change=_without_bids(at),
        )
    stage = replace(
        stage,
        state=StageState.WAITING,
        text=f"no worker has bid{': ' + said if said else ''}",
        until_s=seed.bid_deadline_ts,
        reason=Reason.NO_BIDS,
        change=_without_bids(at),
    )
    return stage if at.is_own else _own_offer(at, stage)


def _came(at: View) -> str:
    prices = [bid.price for bid in at.bids]
    own = "" if at.own_bid is None else f", this node's for {at.own_bid.price}"
    if len(prices) == 1:
        return f"{at.name(at.bids[0].bidder)} has bid {prices[0]}"
    return f"{len(prices)} bids have come, from {min(prices)} to {max(prices)}{own}"


def _without_bids(at: View) -> str:
    """What would bring bids, by what workers say. Only its publisher can do that."""
    if not at.is_own:
        return "a bid: `crabnet seed bid`" if at.status is _S.OPEN else ""
    said = {each.reason for each in at.here.declines}
    changes = []
    if Reason.PRICE in said:
        changes.append("offer more (`--max-price`)")
    if Reason.NOT_ALLOWED in said:
        changes.append("publish a command that workers allow")
    if Reason.RESOURCES in said:
        changes.append("ask for less time or memory (`--timeout`, rules)")
    if Reason.TRUST in said:
        changes.append("settle results that are due: `crabnet account`")
    if said & {Reason.BUSY, Reason.SCHEDULE} or not changes:
        changes.append("wait longer (`--bid-window`)")
    if not said:
        changes.append("look whether workers are there: `crabnet peers`")
    return " or ".join(changes)


def _own_offer(at: View, stage: Stage) -> Stage:
    """Why this node, which is not the publisher, does not bid."""
    here = at.here
    if isinstance(here.offer, Declined):
        declined = here.offer
        return replace(
            stage,
            text=f"{stage.text}; this node would not bid: {declined.detail}",
            reason=declined.reason,
            change=_OFFERS.get(declined.reason, ""),
        )
    if here.paused or here.draining:
        return replace(
            stage,
            text=f"{stage.text}; this node is {'about to end' if here.draining else 'paused'}",
            reason=Reason.BUSY,
            change="" if here.draining else "`crabnet runs resume`",
        )
    if not here.auto_bid:
        price = "" if here.offer is None else f", for {here.offer} by its prices"
        return replace(
            stage,
            text=f"{stage.text}; this node bids when it is told{price}",
            change="`crabnet seed bid`, or bid by policy: `crabnet work`",
        )
    return replace(at.mine(stage), waits_for=here.node_id)


def awarding(at: View) -> Stage:
    """Which bid is claimed, and who has to claim one."""
    seed, progress, status = at.seed, at.progress, at.status
    stage = Stage(name=StageName.AWARD, state=StageState.NOT_REACHED)
    until_s = claim_deadline_s(seed, progress)
    if status in _CLAIMED or (status is _S.EXPIRED and at.claims) or (status is _S.DISPUTED and at.claims):
        return _awarded(at, stage)
    if status is _S.DISPUTED:
        return stage
    if status is _S.EXPIRED:
        ended = f"closed by {at.publisher} before a bid was claimed"
        return replace(stage, state=StageState.FAILED, text=ended + at.note, since_s=progress.settled_at)
    if not at.bids:
        return stage
    since_s = progress.settled_at if status is _S.FORFEITED else min(bid.created_at for bid in at.bids)
    if at.now_s > until_s:
        text = f"{at.publisher} has claimed no bid in time"
        return replace(
            stage,
            state=StageState.FAILED,
            text=text,
            since_s=until_s,
            reason=Reason.DEADLINE_PASSED,
            change="publish the task again" if at.is_own else "",
        )
    forfeited = f"attempt {progress.attempt} was forfeited{at.note}; " if status is _S.FORFEITED else ""
    stage = replace(stage, state=StageState.WAITING, waits_for=seed.created_by, since_s=since_s, until_s=until_s)
    if not at.is_own:
        text = f"{forfeited}{at.publisher} has to claim {_one_of(at.bids)}"
        return replace(stage, text=text, change="a better bid: `crabnet seed bid`" if at.own_bid is None else "")
    return at.mine(_own_award(at, stage, forfeited))


def _own_award(at: View, stage: Stage, forfeited: str) -> Stage:
    """What this node, or its operator, has to do with the bids for its own task."""
    terms, seed_id = at.here.terms, at.seed.id
    if terms is None or terms.award is None:
        return replace(
            stage,
            text=f"{forfeited}you have to claim {_one_of(at.bids)}",
            change=f"`crabnet seed claim {seed_id} {at.bids[0].id if len(at.bids) == 1 else 'BID_ID'}`",
        )
    chosen = award(at.record, terms, lambda author: account(author, Counter(), at.now_s), at.here.now_ms)
    rule = f"{forfeited}this node claims a bid by itself ({terms.award})"
    if isinstance(chosen, Wait):
        until_s = stage.until_s if chosen.until_ms is None else -(-chosen.until_ms // 1000)
        fits = "" if chosen.reason is Reason.NOT_DUE else "; none that has come fits its terms"
        return replace(
            stage,
            text=f"{rule}, and waits for more{fits}",
            until_s=until_s,
            reason=chosen.reason,
            change="claim one yourself: `crabnet seed claim`",
        )
    if isinstance(chosen, Declined):
        return replace(stage, text=f"{rule}, but {chosen.detail}", reason=chosen.reason)
    return replace(stage, text=rule)


def _awarded(at: View, stage: Stage) -> Stage:
    claim = at.record.claim
    body = claim.body if claim is not None and isinstance(claim.body, Claim) else at.claims[-1]
    bids = [fact.body for fact in at.record.bids if isinstance(fact.body, Bid)]
    price = next((f" for {bid.price}" for bid in bids if bid.id == body.bid_id), "")
    again = "" if body.attempt == 1 else f" (attempt {body.attempt})"
    text = f"claimed for {at.name(body.worker)}{price}{again}"
    return replace(stage, state=StageState.DONE, text=text, since_s=body.created_at)


def _one_of(bids: Sequence[Bid]) -> str:
    return "the one bid" if len(bids) == 1 else f"one of {len(bids)} bids"


def _peers(count: int) -> str:
    return f"{count} peer{'' if count == 1 else 's'}"
