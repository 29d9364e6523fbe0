"""Performs the operations that show the network: topology, sync, feeds and forks."""

from __future__ import annotations

import heapq

import trio

from crabnet.core.core import Core
from crabnet.core.sync.missing import Missing
from crabnet.errors import CrabnetError, Reason, RefusedError
from crabnet.node.node import Node
from crabnet.node.operations.dht import peers_of
from crabnet.node.operations.performing import reads
from crabnet.node.operations.topology import Place, topology_view
from crabnet.operations import network
from crabnet.operations.model import Empty
from crabnet.protocol.feed import Feed


@reads(network.TOPOLOGY)
async def topology(node: Node, _: Empty) -> network.Topology:
    """The network as this node sees it."""
    now_ms, core = node.clock_ms(), node.core
    place = Place(node.settings.alias, node.listen, now_ms)
    return topology_view(core, peers_of(node), core.sync_gauges(now_ms), place)


@reads(network.SYNC)
async def sync(node: Node, _: Empty) -> network.Sync:
    """How far this node and its neighbours are behind each other."""
    gauges = node.core.sync_gauges(node.clock_ms())
    return network.Sync(
        neighbours=[
            network.Neighbour(
                address=each.address,
                node_id=each.node_id or None,
                silent_ms=each.silent_ms,
                feeds_behind=each.feeds_behind,
                envelopes_behind=each.envelopes_behind,
                feeds_ahead=each.feeds_ahead,
                envelopes_ahead=each.envelopes_ahead,
            )
            for each in gauges.neighbours
        ],
        neighbours_total=gauges.neighbours_total,
        feeds_missing=gauges.feeds_missing,
        envelopes_missing=gauges.envelopes_missing,
        oldest_want_ms=gauges.oldest_want_ms,
        requests_in_flight=gauges.requests_in_flight,
        envelopes_in_flight=gauges.envelopes_in_flight,
        wanted_by_name=gauges.wanted_by_name,
        parked=gauges.parked,
        envelopes_served=node.serving.envelopes,
        bytes_served=node.serving.bytes,
        serves_dropped=node.serving.dropped,
    )


@reads(network.FEEDS)
async def feeds(node: Node, given: network.FeedsRequest) -> network.FeedPage:
    """A page of feeds."""
    page = feed_page(node.core, given, node.clock_ms())
    await node.durable()
    return page


@reads(network.FEED)
async def feed(node: Node, given: network.FeedRequest) -> network.FeedShown:
    """A feed with the proof of its fork."""
    core, author = node.core, given.author
    found = core.replica.feeds.get(author)
    if author not in core.replica.feeds:
        raise RefusedError(f"nothing of a feed of {author[:128]!r} is held here", Reason.UNKNOWN_KEY)
    proof = None
    if found.end:
        try:
            proof = await trio.to_thread.run_sync(node.history.proof, author, found.end)
        except CrabnetError:
            proof = None  # the index is being built again, or the journal is damaged there
    row = _row(core, found, node.clock_ms())
    await node.durable()
    return network.FeedShown(
        author=row.author,
        own=row.own,
        head_seq=row.head_seq,
        head_id=row.head_id,
        end=row.end,
        missing_to=row.missing_to,
        missing_since_ms=row.missing_since_ms,
        open_seeds=len(found.open_seeds),
        proof=proof,
    )


def feed_page(core: Core, given: network.FeedsRequest, now_ms: int) -> network.FeedPage:
    """A page of feeds, by author."""
    all_feeds = core.replica.feeds
    missing = _missing(core)
    names = (
        author
        for author in all_feeds.authors()
        if (given.after is None or author > given.after)
        and (given.forked is None or all_feeds.is_equivocator(author) is given.forked)
        and (given.behind is None or (author in missing) is given.behind)
    )
    found = heapq.nsmallest(given.limit + 1, names)
    rows = [_row(core, all_feeds.get(author), now_ms) for author in found[: given.limit]]
    return network.FeedPage(
        feeds=rows,
        next=rows[-1].author if len(found) > given.limit else None,
        total=len(all_feeds),
        forked_total=len(all_feeds.equivocators()),
    )


def _missing(core: Core) -> dict[str, Missing]:
    heads = core.replica.feeds
    return {
        author: missing
        for author, missing in core.neighbours.planner.missing()
        if missing.upto > heads.get(author).head_seq
    }


def _row(core: Core, feed: Feed, now_ms: int) -> network.FeedRow:
    missing = core.neighbours.planner.missing_of(feed.author)
    lacks = missing if missing is not None and missing.upto > feed.head_seq else None
    return network.FeedRow(
        author=feed.author,
        own=feed.author == core.signer.node_id,
        head_seq=feed.head_seq,
        head_id=feed.head_id,
        end=feed.end or None,
        missing_to=None if lacks is None else lacks.upto,
        missing_since_ms=None if lacks is None else max(0, now_ms - lacks.since_ms),
    )
