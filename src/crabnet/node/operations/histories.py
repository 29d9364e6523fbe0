"""Performs the operations that show what was decided: audit trails and bids."""

from __future__ import annotations

import trio

from crabnet.node.node import Node
from crabnet.node.operations.bids import bid_page
from crabnet.node.operations.performing import reads
from crabnet.node.operations.trail import read_trail
from crabnet.operations import history


@reads(history.TRAIL)
async def trail(node: Node, given: history.TrailRequest) -> history.Trail:
    """A page of the journal's decisions about a task."""
    node.core.record(given.seed_id)
    await node.durable()
    lsn = node.ledger.last_lsn
    return await trio.to_thread.run_sync(read_trail, node.files, node.settings.data_dir, given, lsn)


@reads(history.BIDS)
async def bids(node: Node, given: history.BidsRequest) -> history.BidPage:
    """A page of bids."""
    page = bid_page(node.core, node.archivist, given, node.clock_ms() // 1000)
    await node.durable()
    return page
