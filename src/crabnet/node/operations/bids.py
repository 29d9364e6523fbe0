"""Pages of bids, for the operation ``bid.list``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from msgspec.structs import asdict

from crabnet import limits
from crabnet.core.core import Core
from crabnet.domain.lifecycle import status_at
from crabnet.domain.model import Bid, Fact
from crabnet.domain.record import Record, claimed_bids, counting_bids
from crabnet.errors import Reason, UsageError
from crabnet.node.durable.archiving import ReadPages
from crabnet.node.seeds import Found, find_seeds
from crabnet.operations import history


def bid_page(core: Core, archived: ReadPages, given: history.BidsRequest, now_s: int) -> history.BidPage:
    """A page of bids. It looks at a bounded number of them, so it may be short.

    Raises RefusedError if the task ``given.seed_id``, or that of ``given.after``, is unknown, and UsageError if the
    bid of ``given.after`` does not count any more.
    """
    seed_id, _, bid_id = (given.after or "").partition("/")
    bids: list[history.ListedBid] = []
    looked_at = tasks = 0
    for found, facts in _rows(core, archived, given, now_s, seed_id, bid_id):
        chosen = claimed_bids(found.record)
        for fact in facts:
            looked_at += 1
            row = _row(core, found, fact, now_s, chosen=fact in chosen)
            if row is not None and _wanted(row, given):
                bids.append(row)
            if len(bids) >= given.limit or looked_at >= limits.BIDS_LOOKED_AT_MAX:
                return history.BidPage(bids=bids, next=f"{found.seed_id}/{fact.body.id}")
        seed_id, tasks = found.seed_id, tasks + 1
    more = given.seed_id is None and tasks >= limits.BID_SEEDS_LOOKED_AT_MAX
    return history.BidPage(bids=bids, next=seed_id if more else None)


def _rows(
    core: Core, archived: ReadPages, given: history.BidsRequest, now_s: int, seed_id: str, bid_id: str
) -> Iterator[tuple[Found, list[Fact]]]:
    """Tasks with their bids, after the place (``seed_id``, ``bid_id``). Both are empty at the beginning."""
    if given.seed_id is not None and seed_id not in {"", given.seed_id}:
        raise UsageError("after is a place of another task than seed_id", Reason.UNKNOWN_BID)
    after = None
    if seed_id:
        record = core.record(seed_id)
        if record.definition is None:
            raise UsageError(f"the task {seed_id} has no definition any more; begin again")
        after = (record.definition.created_at, seed_id)
        if bid_id:
            yield Found(*after, record, False), _after(counting_bids(record), bid_id)
    elif given.seed_id is not None:
        record = core.record(given.seed_id)
        if record.definition is not None:
            yield Found(record.definition.created_at, given.seed_id, record, False), counting_bids(record)
    if given.seed_id is not None:
        return
    worker = core.signer.node_id if given.own else given.worker
    page = find_seeds(
        core.replica.state.records,
        archived.page,
        now_s,
        status=given.status,
        limit=limits.BID_SEEDS_LOOKED_AT_MAX,
        after=after,
        wanted=lambda record: any(worker in {None, fact.author} for fact in record.bids),
    )
    yield from ((found, counting_bids(found.record)) for found in page)


def _after(bids: list[Fact], bid_id: str) -> list[Fact]:
    place = next((at for at, fact in enumerate(bids) if fact.body.id == bid_id), None)
    if place is None:
        raise UsageError(f"the bid {bid_id} does not count any more; begin again")
    return list(islice(bids, place + 1, None))


def _row(core: Core, found: Found, fact: Fact, now_s: int, *, chosen: bool) -> history.ListedBid | None:
    record: Record = found.record
    if record.definition is None or not isinstance(fact.body, Bid):
        return None
    return history.ListedBid(
        **asdict(fact.body),
        own=fact.author == core.signer.node_id,
        chosen=chosen,
        title=record.definition.title,
        publisher=record.definition.created_by,
        status=status_at(record, now_s),
    )


def _wanted(row: history.ListedBid, given: history.BidsRequest) -> bool:
    return (
        (given.own is None or row.own is given.own)
        and given.worker in {None, row.bidder}
        and given.status in {None, row.status}
        and (given.chosen is None or row.chosen is given.chosen)
    )
