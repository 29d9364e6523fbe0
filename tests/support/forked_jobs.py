"""Jobs whose creator forks its feed, in the order in which a node hears of them."""

from __future__ import annotations

from typing import NamedTuple

from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import Author, seed_id_of


class ForkedJob(NamedTuple):
    """What is told about one seed, and who its creator is."""

    seed_id: str
    creator: Author
    told: list[Envelope]


def settled_behind_the_end(name: str = "settled") -> ForkedJob:
    """The creator signs another claim beside the one whose worker starts, gets its result, and is settled by it.

    All of it lies behind the end of the creator's feed, and stands, since the worker has acknowledged it.
    """
    creator, worker, rival = (Author(f"{name} {role}") for role in ("creator", "worker", "rival"))
    seed, more = creator.publish(), creator.publish()
    bids = [worker.bid(seed), rival.bid(seed), worker.bid(more)]
    unheard = creator.twin().claim(bids[1])
    claim = creator.claim(bids[0])
    start = worker.start(claim)
    result = worker.finish(start)
    settlement = creator.settle(result)
    acknowledged = worker.acknowledge(settlement)
    told = [seed, more, *bids, unheard, claim, start, result]
    told += [claim, settlement, acknowledged, settlement]
    return ForkedJob(seed_id_of(seed), creator, told)


def disputed(name: str = "disputed") -> ForkedJob:
    """The creator signs two claims for one place, and both workers start."""
    creator, worker, rival = (Author(f"{name} {role}") for role in ("creator", "worker", "rival"))
    seed = creator.publish()
    bids = [worker.bid(seed), rival.bid(seed)]
    other = creator.twin().claim(bids[1])
    claim = creator.claim(bids[0])
    starts = [worker.start(claim), rival.start(other)]
    return ForkedJob(seed_id_of(seed), creator, [seed, *bids, claim, starts[0], other, starts[1], other])


def forked_at_its_seed(name: str = "replaced") -> ForkedJob:
    """The creator signs two seeds for one place; somebody has bid on the first that comes, nobody on the other."""
    creator, worker = Author(f"{name} creator"), Author(f"{name} worker")
    other = creator.twin().publish(title="other")
    seed = creator.publish()
    return ForkedJob(seed_id_of(seed), creator, [seed, worker.bid(seed), other])


def taken_back(name: str = "taken back") -> ForkedJob:
    """The creator signs something else in the place of a claim that nobody has followed: the seed is open again."""
    creator, worker = Author(f"{name} creator"), Author(f"{name} worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    other = creator.twin().publish(title="other")
    return ForkedJob(seed_id_of(seed), creator, [seed, bid, creator.claim(bid), other])


def all_of_them() -> list[ForkedJob]:
    """One of each."""
    return [settled_behind_the_end(), disputed(), forked_at_its_seed(), taken_back()]
