"""What lies before the end of a feed may come after what lies behind it; the outcome is the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crabnet.core.replica.replica import Replica
from crabnet.errors import Reason
from crabnet.protocol.admission import AdmissionPolicy
from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, Author
from tests.support.facts import definitions

LATER_S = NOW_S + 1_000


def told(envelopes: Sequence[Envelope]) -> Replica:
    """A replica that has heard these in this order, each again as long as that brings something new."""
    replica = Replica(AdmissionPolicy(), seen_ttl_s=10**6, seen_capacity=1_000, parked_ttl_s=10**6)
    before = ""
    while before != replica.state_hash():
        before = replica.state_hash()
        for envelope in envelopes:
            replica.receive(envelope.raw, LATER_S, wanted=lambda meta: replica.parking.names(meta.id))
            replica.settling.settle_all(LATER_S)
    return replica


class Job:
    """A seed with two bids, of which the first is claimed."""

    def __init__(self) -> None:
        self.creator, self.worker, self.rival = Author("creator"), Author("worker"), Author("rival")
        self.seed = self.creator.publish(timeout_ms=1_000, exec_deadline_ms=1_000)
        self.bid = self.worker.bid(self.seed)
        self.other_bid = self.rival.bid(self.seed)
        self.claim = self.creator.claim(self.bid)

    @property
    def begin(self) -> list[Envelope]:
        return [self.seed, self.bid, self.other_bid]

    def status(self, replica: Replica) -> str:
        (record,) = replica.state.records.values()
        return record.progress.status.value


def same(first: Sequence[Envelope], second: Sequence[Envelope]) -> tuple[Replica, Replica]:
    """Two replicas that heard the one before the other, and the other way round; they must agree."""
    one, other = told(first), told(second)
    assert sorted(e.meta.id for e in first) == sorted(e.meta.id for e in second)
    assert one.feeds.digest() == other.feeds.digest()
    return one, other


@pytest.mark.parametrize("ends", ["Forfeited", "Expired"])
def test_a_step_before_the_end_that_comes_after_a_claim_behind_it(ends: str) -> None:
    job = Job()
    creator = job.creator
    ended = creator.settle(job.claim, ends, NOW_S + 60)
    twin = creator.twin()
    again = creator.claim(job.other_bid, NOW_S + 60, attempt=2)
    fork = twin.settle(job.seed, "Expired", NOW_S + 61, attempt=2)
    start = job.rival.start(again)
    front, behind = [job.claim, ended], [start, again, fork]
    one, other = same([*job.begin, *front, *behind], [*job.begin, *behind, *front])
    assert job.status(one) == job.status(other) == ("Running" if ends == "Forfeited" else "Expired")
    assert one.state_hash() == other.state_hash()


def test_what_lies_behind_an_end_comes_only_to_who_names_it_about_its_own_seed() -> None:
    job = Job()
    wrong = Author("liar").bid(job.seed, seed_id="00000000-0000-4000-8000-000000000000")
    ended = [job.creator.twin().rewind(job.seed).publish(title=title) for title in ("one", "two")]
    replica = told([*ended, wrong])
    (applied,) = replica.receive(job.seed.raw, LATER_S, wanted=lambda meta: replica.parking.names(meta.id))
    assert applied.reason is Reason.FEED_ENDED
    assert all(record.seed is None for record in replica.state.records.values())
    assert replica.state_hash() == told(ended).state_hash()
    assert job.status(told([*ended, wrong, job.bid])) == "Open"


def test_a_result_before_the_end_that_comes_after_a_settled_one_behind_it() -> None:
    job = Job()
    worker = job.worker
    first = worker.finish(job.claim)
    twin = worker.twin()
    second = worker.finish(job.claim, stdout="another")
    fork = twin.finish(job.claim, stdout="a third")
    settlement = job.creator.settle(second)
    front, behind = [first], [settlement, second, fork]
    begin = [*job.begin, job.claim]
    one, other = same([*begin, *front, *behind], [*begin, *behind, *front])
    assert job.status(one) == job.status(other) == "Done"
    assert one.state_hash() == other.state_hash()


def test_work_before_the_end_that_comes_after_the_claim_was_replaced_behind_it() -> None:
    job = Job()
    creator = job.creator
    twin = creator.twin()
    forfeit = creator.settle(job.claim, "Forfeited", NOW_S + 60)
    again = creator.claim(job.other_bid, NOW_S + 60, attempt=2)
    fork = twin.settle(job.claim, "Expired", NOW_S + 61)
    start = job.rival.start(again)
    late = job.worker.finish(job.claim)
    begin, behind = [*job.begin, job.claim], [start, forfeit, again, fork]
    one, other = same([*begin, late, *behind], [*begin, *behind, late])
    assert job.status(one) == job.status(other) == "Running"
    assert one.state_hash() == other.state_hash()


def test_a_bid_below_the_price_pins_no_seed() -> None:
    job = Job()
    seed = job.seed
    low = Author("stranger").bid(seed, price=0)
    fork = Author("creator").publish(title="another")
    one, other = same([seed, low, fork], [seed, fork, low])
    assert definitions(one.state) == definitions(other.state) == set()
    assert one.state_hash() == other.state_hash()


def test_a_second_definition_is_pinned_by_each_bid_on_it() -> None:
    """The bid that came after the dispute pins as well: the first one's author forks its feed later."""
    job = Job()
    creator = Author("creator")
    creator.nonce = 1_000
    another = creator.publish(title="another")
    first, second = Author("stranger"), Author("friend")
    bids = [first.bid(another), second.bid(another)]
    fork = Author("stranger").bid(job.seed)
    begin = [job.seed, job.bid, another]
    one, other = same([*begin, *bids, fork], [*begin, fork, bids[1], bids[0]])
    assert job.status(one) == job.status(other) == "Disputed"
    assert one.state_hash() == other.state_hash()


def test_a_claim_before_the_end_that_comes_after_a_forfeit_has_undone_what_is_behind() -> None:
    """What was settled behind the end does not count after the forfeit, and still forbids another claim."""
    job = Job()
    creator = job.creator
    forfeit = creator.settle(job.claim, "Forfeited", NOW_S + 60)
    again = creator.claim(job.other_bid, NOW_S + 60, attempt=2)
    result = job.worker.finish(job.claim)
    twin = creator.twin()
    settlement = creator.settle(result)
    fork = twin.settle(again, "Expired", NOW_S + 61, attempt=2)
    acknowledgement = job.worker.acknowledge(settlement)
    begin = [*job.begin, job.claim, result]
    front, behind = [forfeit, again], [acknowledgement, settlement, fork]
    one, other = same([*begin, *front, *behind], [*begin, *behind, *front])
    assert job.status(one) == job.status(other) == "Disputed"
    assert one.state_hash() == other.state_hash()


def test_a_seed_behind_the_end_goes_with_the_last_bid_that_pinned_it() -> None:
    job = Job()
    fork = Author("creator").publish(title="another")
    bid = Author("stranger").bid(job.seed)
    again = Author("stranger").bid(job.seed, price=11)
    pinned, _ = same([job.seed, fork, bid], [bid, fork, job.seed])
    assert job.status(pinned) == "Open"
    one, other = same([job.seed, fork, bid, again], [job.seed, bid, again, fork])
    assert definitions(one.state) == definitions(other.state) == set()
    assert one.state_hash() == other.state_hash()
