"""Performs the operations on tasks."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from crabnet.core.commands import Publish
from crabnet.core.core import Core
from crabnet.domain.model import FINAL, Bid, Claim, Run, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import Record
from crabnet.errors import Reason, RefusedError
from crabnet.node.durable.archiving import ReadPages
from crabnet.node.execution.prechecks import doubts_about, doubts_about_bid
from crabnet.node.node import Node
from crabnet.node.operations.finding import find_ids
from crabnet.node.operations.performing import Send, reads, streams, writes
from crabnet.node.operations.purchases import terms_of
from crabnet.node.operations.requests import Ticket, stated_body
from crabnet.node.operations.views import (
    bid_view,
    claim_view,
    local_run,
    result_view,
    seed_page,
    seed_view,
    story,
    view_mark,
    watched,
)
from crabnet.node.seeds import Filter, needs_operator, search_seeds
from crabnet.operations import objects, seeds
from crabnet.operations.model import Empty


@writes(seeds.PUBLISH)
async def publish(node: Node, given: seeds.PublishRequest, ticket: Ticket) -> seeds.Published:
    """Publish a task."""
    wish = Publish(
        title=given.title,
        command=given.command,
        description=given.description,
        timeout_ms=given.timeout_ms,
        bid_window_ms=given.bid_window_ms,
        claim_window_ms=given.claim_window_ms,
        exec_deadline_ms=given.exec_deadline_ms,
        min_price=given.min_price,
        max_bids=given.max_bids,
        reward=given.reward,
        rules=given.rules,
        acceptance=given.acceptance,
        settle_window_ms=given.settle_window_ms,
        terms=None if given.terms is None else terms_of(given.terms),
        announce=given.announce,
        request=ticket.tag,
    )
    seed_id = (await node.publish(wish)).id if ticket.stated is None else ticket.stated.seed_id
    sent = await _announced(node, given.announce, seed_id, seed_id)
    return seeds.Published(seed=_seed(node, seed_id), warnings=doubts_about(wish), announced=sent)


@writes(seeds.BID)
async def bid(node: Node, given: seeds.BidRequest, ticket: Ticket) -> seeds.BidMade:
    """Bid for a task."""
    if ticket.stated is None:
        made = await node.bid(
            given.seed_id,
            given.price,
            notes=given.notes,
            announce=given.announce,
            force=given.force,
            request=ticket.tag,
        )
    else:
        made = stated_body(node, ticket.stated, Bid)
    seed = node.core.record(given.seed_id).definition
    warnings = [] if seed is None else doubts_about_bid(seed, given.price)
    sent = await _announced(node, given.announce, given.seed_id, made.id)
    return seeds.BidMade(bid=bid_view(made), warnings=warnings, announced=sent)


@writes(seeds.CLAIM)
async def claim(node: Node, given: seeds.ClaimRequest, ticket: Ticket) -> seeds.Claimed:
    """Claim a bid."""
    if ticket.stated is None:
        made = await node.claim(given.seed_id, given.bid_id, announce=given.announce, request=ticket.tag)
    else:
        made = stated_body(node, ticket.stated, Claim)
    sent = await _announced(node, given.announce, given.seed_id, made.id)
    return seeds.Claimed(claim=claim_view(made), announced=sent)


@writes(seeds.RUN)
async def run(node: Node, given: seeds.RunRequest, ticket: Ticket) -> seeds.RunEnded:
    """Run a claimed task to its end."""
    if ticket.stated is None:
        result = await node.run(given.seed_id, announce=given.announce, request=ticket.tag)
    else:
        result = await _result_of_run(node, ticket)
    sent = await _announced(node, given.announce, given.seed_id, result.id)
    return seeds.RunEnded(result=result_view(result), announced=sent)


async def _result_of_run(node: Node, ticket: Ticket) -> TaskResult:
    """The result of the run that an earlier try has begun. Waits while the claim still awaits it."""
    stated = ticket.stated
    if stated is None:
        raise TypeError("there was no earlier try")
    envelope_id, seed_id = stated.envelope_id, stated.seed_id
    while True:
        record = node.core.record(seed_id)
        began = next(
            (
                fact.body
                for fact in (*record.others, *record.fallen)
                if fact.envelope == envelope_id and isinstance(fact.body, Run | TaskResult)
            ),
            None,
        )
        claim_id = None if began is None else began.claim_id
        bodies = [fact.body for fact in (*record.others, *record.fallen)]
        result = next((body for body in bodies if isinstance(body, TaskResult) and body.claim_id == claim_id), None)
        if result is not None:
            return result
        if claim_id is None or not node.core.awaits_result(seed_id, claim_id):
            raise RefusedError(f"the claim of seed {seed_id} is over, and its run has no result", Reason.CLAIM_OVER)
        await node.changed()


@writes(seeds.CANCEL)
async def cancel(node: Node, given: seeds.CancelRequest, ticket: Ticket) -> seeds.Cancelled:
    """Withdraw a task, or end a run."""
    if ticket.stated is None:
        cancelled = await node.cancel(given.seed_id, note=given.note, announce=given.announce, request=ticket.tag)
    else:
        cancelled = "seed"
    settled = _last_settlement(node, given.seed_id) if cancelled == "seed" else ""
    sent = await _announced(node, given.announce, given.seed_id, settled)
    return seeds.Cancelled(cancelled=cancelled, seed=_seed(node, given.seed_id), announced=sent)


@writes(seeds.SETTLE)
async def settle(node: Node, given: seeds.SettleRequest, ticket: Ticket) -> seeds.Settled:
    """Settle a task or an attempt."""
    if ticket.stated is None:
        await node.settle(given.seed_id, given.outcome, note=given.note, announce=given.announce, request=ticket.tag)
        settled = _last_settlement(node, given.seed_id)
    else:
        settled = stated_body(node, ticket.stated, Settlement).id
    sent = await _announced(node, given.announce, given.seed_id, settled)
    return seeds.Settled(seed=_seed(node, given.seed_id), announced=sent)


@reads(seeds.LIST)
async def list_(node: Node, given: seeds.ListRequest) -> seeds.SeedPage:
    """A page of tasks."""
    page = list_seeds(node.core, node.archivist, given, node.clock_ms() // 1000)
    await node.durable()
    return page


def list_seeds(core: Core, archived: ReadPages, given: seeds.ListRequest, now_s: int) -> seeds.SeedPage:
    """A page of tasks, in memory and archived. Raises RefusedError if the task ``given.after`` is unknown."""
    after = None
    if given.after is not None:
        definition = core.record(given.after).definition
        after = None if definition is None else (definition.created_at, given.after)
    me = core.signer.node_id
    if given.mine and given.creator not in {None, me}:
        return seeds.SeedPage(seeds=[], next=None, node_id=me)
    purchases = core.replica.purchases.terms

    def needs_me(record: Record) -> bool:
        """The node itself goes on with its purchases, except where their terms leave the settlement to its operator."""
        seed = record.definition
        if seed is None or not needs_operator(record, me, now_s):
            return False
        is_done = record.progress.status is SeedStatus.DONE
        return seed.id not in purchases or (is_done and core.trading.leaves_to_operator(seed.id, record))

    wanted = Filter(
        status=given.status,
        biddable=given.biddable,
        creator=me if given.mine else given.creator,
        others_than=me if given.mine is False else None,
        worker=given.worker,
        needs=None if given.needs_me is None else lambda record: needs_me(record) is given.needs_me,
        since_s=given.since,
        text=given.text,
    )
    search = search_seeds(core.replica.state.records, archived.page, now_s, wanted, limit=given.limit, after=after)
    is_equivocator = core.replica.feeds.is_equivocator
    return seed_page(search, now_s, is_equivocator, needs_me, node_id=me, unreadable=archived.unreadable)


@reads(seeds.FIND)
async def find(node: Node, given: seeds.FindRequest) -> seeds.IdPage:
    """The ids that begin with a text."""
    page = find_ids(node.core, node.archivist, given, node.clock_ms() // 1000)
    await node.durable()
    return page


@reads(seeds.SHOW)
async def show(node: Node, given: seeds.ShowRequest) -> objects.Story:
    """A task with everything that counts."""
    shown = _story(node, given.seed_id, limit=given.limit, after=given.after)
    await node.durable()
    return shown


@streams(seeds.WATCH)
async def watch(node: Node, given: seeds.WatchRequest, send: Send) -> None:
    """A task after each change."""
    seen = given.seen
    while True:
        changed = node.next_change()
        shown = _story(node, given.seed_id)
        mark = view_mark(shown)
        if mark != seen:
            await node.durable()
            await send(watched(shown, mark))
            seen = mark
        if shown.seed.status in FINAL:
            return
        await changed.wait()


@reads(seeds.RUNS)
async def runs(node: Node, _: Empty) -> seeds.RunList:
    """The runs on this node."""
    turns = node.run_manager.turns
    rows = [
        seeds.RunRow(
            seed_id=seed_id,
            claim_id=task.claim_id,
            publisher=task.publisher,
            command=task.command,
            timeout_ms=task.timeout_ms,
            local_run=objects.LocalRun(stage=view.stage.value, position=view.position, since_ms=view.since_ms),
        )
        for seed_id, task, view in node.run_manager.views()
    ]
    return seeds.RunList(
        runs=rows,
        running_max=turns.runs_max,
        queued_max=turns.queue_max,
        paused=turns.paused,
        draining=node.run_manager.stopping,
    )


def _seed(node: Node, seed_id: str) -> objects.Seed:
    return seed_view(node.core.record(seed_id), node.clock_ms() // 1000)


def _story(node: Node, seed_id: str, *, limit: int | None = None, after: str | None = None) -> objects.Story:
    return story(
        node.core.record(seed_id),
        node.clock_ms() // 1000,
        node.core.replica.feeds.is_equivocator,
        limit=limit,
        after=after,
        here=local_run(node.run_manager.view(seed_id)),
    )


async def _announced(node: Node, announce: bool, seed_id: str, object_id: str) -> objects.Announced | UnsetType | None:
    """Where the envelope was sent, if an announcement was requested. None if that is not known."""
    if not announce or not object_id:
        return UNSET
    delivery = await node.delivery(seed_id, object_id)
    return None if delivery is None else objects.Announced(**delivery._asdict())


def _last_settlement(node: Node, seed_id: str) -> str:
    facts = [fact for fact in node.core.record(seed_id).others if isinstance(fact.body, Settlement)]
    return facts[-1].body.id if facts else ""
