"""How far this node and its neighbours are behind each other. Reads the parts of ``Neighbours`` and changes nothing."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from crabnet import limits
from crabnet.core.sync.neighbour_parts import NeighbourParts
from crabnet.protocol.feed import Feeds


class NeighbourGauges(Struct, frozen=True, kw_only=True):
    """One neighbour that is configured or has proved its address. ``node_id`` is "" if it is not known.

    This node is ``feeds_behind`` and ``envelopes_behind``: what the neighbour said that it holds, and this node lacks.
    The neighbour is ``feeds_ahead`` and ``envelopes_ahead`` behind this node, according to what it said and asked for
    last; None if it has said nothing about that. ``silent_ms`` is the time since its last message in milliseconds, None
    if there was none.
    """

    address: str
    node_id: str
    silent_ms: int | None
    feeds_behind: int
    envelopes_behind: int
    feeds_ahead: int | None
    envelopes_ahead: int | None


class SyncGauges(Struct, frozen=True, kw_only=True):
    """What this node lacks according to its neighbours, and what it has requested.

    ``neighbours`` are at most SYNC_GAUGES_NEIGHBOURS_MAX of ``neighbours_total``, those with the largest differences
    first. ``feeds_missing`` feeds lack ``envelopes_missing`` envelopes that neighbours say they hold. What unproven
    addresses say does not count. ``oldest_want_ms`` is how long the node has lacked the part of a
    feed, or an envelope that others rest on, that it lacks for longest, in milliseconds. It is 0 if nothing is missing.
    ``requests_in_flight`` ranges with ``envelopes_in_flight`` envelopes were requested and have not arrived.
    ``wanted_by_name`` counts fork proofs and envelopes that others rest on. ``parked`` envelopes wait for others.
    """

    neighbours: tuple[NeighbourGauges, ...] = ()
    neighbours_total: int = 0
    feeds_missing: int = 0
    envelopes_missing: int = 0
    oldest_want_ms: int = 0
    requests_in_flight: int = 0
    envelopes_in_flight: int = 0
    wanted_by_name: int = 0
    parked: int = 0


def gauges_of(parts: NeighbourParts, feeds: Feeds, parked: int, now_ms: int) -> SyncGauges:
    """The gauges at ``now_ms``. The cost grows with the missing feeds and their sources, which are bounded."""
    present = set(parts.around())
    behind_feeds: Counter[str] = Counter()
    behind_envelopes: Counter[str] = Counter()
    feeds_missing = envelopes_missing = requests = 0
    since_ms = [each for each in (parts.named.oldest_ms, parts.proofs.oldest_ms) if each is not None]
    for author, missing in parts.planner.missing():
        head = feeds.get(author).head_seq
        requests += len(missing.flights)
        most = 0
        for source, holder in missing.holders.items():
            lacks = holder.reach - head
            if lacks > 0 and source in present:
                behind_feeds[source] += 1
                behind_envelopes[source] += lacks
                most = max(most, lacks)
        if most:
            feeds_missing += 1
            envelopes_missing += most
            since_ms.append(missing.since_ms)
    found = []
    for address in present:
        ahead = parts.reconciler.reach.behind(address, lambda author: feeds.get(author).head_seq)
        heard_ms = parts.peers.last_heard_ms(address)
        found.append(
            NeighbourGauges(
                address=address,
                node_id=parts.peers.node_id(address),
                silent_ms=None if heard_ms is None else max(0, now_ms - heard_ms),
                feeds_behind=behind_feeds[address],
                envelopes_behind=behind_envelopes[address],
                feeds_ahead=None if ahead is None else ahead[0],
                envelopes_ahead=None if ahead is None else ahead[1],
            )
        )
    found.sort(key=lambda each: (-each.envelopes_behind, -(each.envelopes_ahead or 0), each.address))
    return SyncGauges(
        neighbours=tuple(found[: limits.SYNC_GAUGES_NEIGHBOURS_MAX]),
        neighbours_total=len(found),
        feeds_missing=feeds_missing,
        envelopes_missing=envelopes_missing,
        oldest_want_ms=max(0, now_ms - min(since_ms)) if since_ms else 0,
        requests_in_flight=requests,
        envelopes_in_flight=parts.planner.flow.flying,
        wanted_by_name=len(parts.named) + len(parts.proofs),
        parked=parked,
    )
