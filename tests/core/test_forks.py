"""What a fork takes back, and what stands since both sides have signed it: the same in whatever order it is heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from crabnet.protocol.envelope import Envelope
from tests.support.envelopes import NOW_S, Author, body_of
from tests.support.journals import Journal

LATE_S = NOW_S + 11
"""When a claim is overdue."""


class Job:
    """A seed and the steps of its job, as they should be, and forks of either side."""

    def __init__(self) -> None:
        self.creator, self.worker = Author("creator"), Author("worker")
        self.seed = self.creator.publish(max_bids=9)
        self.bid = self.worker.bid(self.seed)
        self.claim = self.creator.claim(self.bid)
        self.start = self.worker.start(self.claim)
        self.result = self.worker.finish(self.start)
        self.settled = self.creator.settle(self.result)
        self.acknowledged = self.worker.acknowledge(self.settled)

    def until(self, last: str) -> list[Envelope]:
        """The story up to a step."""
        steps = ["seed", "bid", "claim", "start", "result", "settled", "acknowledged"]
        return [getattr(self, step) for step in steps[: steps.index(last) + 1]]

    def fork(self, at: Envelope) -> Envelope:
        """Another envelope for the place of this one, which says nothing about the seed."""
        author = self.creator if at.meta.from_ == self.creator.id else self.worker
        return author.twin().rewind(at).publish(title="other")


def heard(envelopes: Sequence[Envelope], *, settling: bool) -> Journal:
    """A node that hears of all again and again, as by sync, until nothing moves."""
    journal = Journal()
    before: object = None
    while (now := journal.settle().standing) != before:
        before = now
        for envelope in envelopes:
            journal.tell(envelope)
            if settling:
                journal.settle()
    return journal


def agreed(*envelopes: Envelope) -> Journal:
    """What all nodes agree on who have heard these envelopes, in whatever order, and after a restart."""
    orders = [list(envelopes), list(reversed(envelopes)), [*envelopes[-1:], *envelopes[:-1]]]
    for number in range(6):
        order = list(envelopes)
        Random(number).shuffle(order)
        orders.append(order)
    nodes = [heard(order, settling=settling) for order in orders for settling in (True, False)]
    for node in nodes:
        assert node.replica.feeds.heads() == nodes[0].replica.feeds.heads()
        assert node.hash == nodes[0].hash
        assert node.replayed().hash == node.restored().hash == node.hash
        assert node.replayed().replica.state.records == node.replica.state.records
    return nodes[0]


Story = Callable[[Job], list[Envelope]]


def forked(at: str, last: str) -> Story:
    """The story up to ``last``, then a fork at the place of a step."""
    return lambda job: [*job.until(last), job.fork(getattr(job, at))]


def forks(at: str, also: str, last: str) -> Story:
    """The same with forks of both sides."""
    return lambda job: [*job.until(last), job.fork(getattr(job, at)), job.fork(getattr(job, also))]


def _own_bid(job: Job) -> list[Envelope]:
    return [job.seed, job.creator.bid(job.seed), job.fork(job.seed)]


def _void_bid(job: Job) -> list[Envelope]:
    return [job.seed, Author("miser").bid(job.seed, price=0), job.fork(job.seed)]


def _forfeit(job: Job) -> list[Envelope]:
    forfeit = job.creator.rewind(job.settled).settle(job.claim, "Forfeited", LATE_S)
    return [*job.until("start"), forfeit, job.fork(forfeit)]


def _withdrawal(job: Job) -> list[Envelope]:
    closed = job.creator.rewind(job.settled).settle(job.claim, "Expired")
    return [*job.until("result"), closed, job.fork(closed)]


def _close(job: Job) -> list[Envelope]:
    closed = job.creator.rewind(job.claim).settle(job.seed, "Expired")
    return [*job.until("bid"), closed, job.fork(closed)]


def _second_claim(job: Job, *, started: bool) -> list[Envelope]:
    """The creator forfeits, claims another worker's bid, and forks at the forfeit."""
    rival = Author("rival")
    bid = rival.bid(job.seed)
    forfeit = job.creator.rewind(job.settled).settle(job.claim, "Forfeited", LATE_S)
    claim = job.creator.claim(bid, LATE_S, attempt=2)
    more = [rival.start(claim, LATE_S)] if started else []
    return [*job.until("start"), bid, forfeit, claim, *more, job.fork(forfeit)]


CASES: dict[str, tuple[Story, str]] = {
    "a seed that nobody has bid on": (forked("seed", "seed"), ""),
    "a seed that its creator alone has bid on": (_own_bid, ""),
    "a seed on which one has bid too little": (_void_bid, ""),
    "a seed that another has bid on": (forked("seed", "bid"), "Open"),
    "a claim before its worker has started": (forked("claim", "claim"), "Open"),
    "the seed before the claim was followed": (forked("seed", "claim"), "Open"),
    "a claim after its worker has started": (forked("claim", "start"), "Running"),
    "the seed after the worker has started": (forked("seed", "start"), "Running"),
    "the seed after the result": (forked("seed", "result"), "Done"),
    "a settlement before it is acknowledged": (forked("settled", "settled"), "Done"),
    "the claim before the settlement is acknowledged": (forked("claim", "settled"), "Done"),
    "a settlement after it is acknowledged": (forked("settled", "acknowledged"), "Accepted"),
    "the seed after all is over": (forked("seed", "acknowledged"), "Accepted"),
    "a forfeit": (_forfeit, "Running"),
    "a withdrawal of a claim": (_withdrawal, "Done"),
    "a close": (_close, "Open"),
    "a forfeit, and the next claim was not followed": (lambda job: _second_claim(job, started=False), "Running"),
    "a forfeit, and the next claim was followed": (lambda job: _second_claim(job, started=True), "Running"),
    "the worker at its bid before it was claimed": (forked("bid", "bid"), "Open"),
    "the worker at its bid after it was claimed": (forked("bid", "claim"), "Claimed"),
    "the worker at its bid after it has started": (forked("bid", "start"), "Claimed"),
    "the worker at its bid after the settlement": (forked("bid", "settled"), "Accepted"),
    "the worker at its start": (forked("start", "result"), "Claimed"),
    "the worker at its start after the settlement": (forked("start", "settled"), "Accepted"),
    "the worker at its result": (forked("result", "result"), "Running"),
    "the worker at its result after the settlement": (forked("result", "settled"), "Accepted"),
    "the worker at its acknowledgement": (forked("acknowledged", "acknowledged"), "Accepted"),
    "both at the last step": (forks("settled", "acknowledged", "acknowledged"), "Done"),
    "both at the result and the settlement": (forks("settled", "result", "settled"), "Running"),
    "both at the first step": (forks("seed", "bid", "acknowledged"), ""),
    "both at the claim and the start": (forks("claim", "start", "result"), "Open"),
}


@pytest.mark.parametrize("name", CASES)
def test_who_forks_where(name: str) -> None:
    story, status = CASES[name]
    job = Job()
    assert agreed(*story(job)).status(job.seed) == status


def test_the_claim_of_the_second_attempt_counts_if_it_was_followed() -> None:
    for started, author in ((False, "worker"), (True, "rival")):
        job = Job()
        progress = agreed(*_second_claim(job, started=started)).record(job.seed).progress
        assert progress.claimed_by == Author(author).id
        assert progress.attempt == 1 + started


def test_work_on_a_claim_ends_with_a_claim_behind_the_end_whichever_comes_first() -> None:
    job = Job()
    told = _second_claim(job, started=True)
    late, prompt = Journal(), Journal()
    late.tell(*(envelope for envelope in told if envelope is not job.start))
    assert late.record(job.seed).progress.attempt == 2
    late.tell(job.start)
    prompt.tell(*told)
    assert late.hash == prompt.hash
    assert late.record(job.seed).others == prompt.record(job.seed).others
    assert job.start.meta.id not in [fact.envelope for fact in late.record(job.seed).others]


def test_a_bid_that_was_taken_back_leaves_the_others() -> None:
    job, rival = Job(), Author("rival")
    bid = rival.bid(job.seed)
    record = agreed(job.seed, job.bid, bid, job.fork(job.bid)).record(job.seed)
    assert [fact.envelope for fact in record.bids] == [bid.meta.id]


def test_a_claim_that_was_taken_back_leaves_room_for_no_other() -> None:
    """The creator's feed has ended: nobody can claim, and all know that."""
    job = Job()
    again = job.creator.rewind(job.settled).claim(job.bid)
    journal = agreed(*job.until("claim"), job.fork(job.claim), again)
    assert journal.status(job.seed) == "Open"


def test_a_worker_who_ended_its_feed_can_be_forfeited() -> None:
    job = Job()
    forfeit = job.creator.rewind(job.settled).settle(job.claim, "Forfeited", LATE_S)
    assert agreed(*job.until("result"), job.fork(job.result), forfeit).status(job.seed) == "Forfeited"


def test_of_two_results_the_one_that_was_settled_counts() -> None:
    job = Job()
    other = job.worker.twin().rewind(job.result).finish(job.start, exit_code=3)
    journal = agreed(*job.until("settled"), other)
    assert journal.record(job.seed).progress.result_id == body_of(job.result)["id"]
    counted = [fact.envelope for fact in journal.record(job.seed).others if fact.kind == "result"]
    assert counted == [job.result.meta.id]


class TestDisputes:
    """Where both of two ways were followed by others, no rule chooses."""

    def test_two_definitions_that_were_both_bid_on(self) -> None:
        job = Job()
        other = job.creator.twin().rewind(job.seed).publish(title="other")
        bid = Author("rival").bid(other)
        journal = agreed(job.seed, job.bid, other, bid)
        assert journal.status(job.seed) == "Disputed"
        assert agreed(*job.until("acknowledged"), other, bid).hash != journal.hash, "heads differ"

    def test_two_definitions_one_of_which_was_bid_on(self) -> None:
        job = Job()
        other = job.creator.twin().rewind(job.seed).publish(title="other")
        journal = agreed(job.seed, job.bid, other)
        record = journal.record(job.seed)
        assert record.seed is not None
        assert (record.progress.status, record.seed.envelope) == ("Open", job.seed.meta.id)

    def test_two_claims_for_one_place_that_were_both_followed(self) -> None:
        job, rival = Job(), Author("rival")
        bid = rival.bid(job.seed)
        claim = job.creator.twin().rewind(job.claim).claim(bid)
        start = rival.start(claim)
        assert agreed(*job.until("start"), bid, claim, start).status(job.seed) == "Disputed"
        assert agreed(*job.until("start"), bid, claim).status(job.seed) == "Running"
        assert agreed(*job.until("claim"), bid, claim, start).status(job.seed) == "Running"
        assert agreed(*job.until("claim"), bid, claim).status(job.seed) == "Open"

    def test_two_settlements_that_were_both_acknowledged(self) -> None:
        job = Job()
        other = job.creator.twin().rewind(job.settled).settle(job.result, "Rejected")
        acknowledged = job.worker.acknowledge(other)
        assert agreed(*job.until("acknowledged"), other, acknowledged).status(job.seed) == "Disputed"
        assert agreed(*job.until("acknowledged"), other).status(job.seed) == "Accepted"
        assert agreed(*job.until("settled"), other).status(job.seed) == "Done"

    def test_a_dispute_is_over_when_one_of_the_bidders_is_found_to_have_forked_as_well(self) -> None:
        job, rival = Job(), Author("rival")
        other = job.creator.twin().rewind(job.seed).publish(title="other")
        bid = rival.bid(other)
        lower = rival.twin().rewind(bid).publish()
        record = agreed(job.seed, job.bid, other, bid, lower).record(job.seed)
        assert record.seed is not None
        assert (record.progress.status, record.seed.envelope) == ("Open", job.seed.meta.id)

    def test_bids_that_come_while_a_dispute_lasts_count_when_it_is_over(self) -> None:
        job, rival, third = Job(), Author("rival"), Author("third")
        other = job.creator.twin().rewind(job.seed).publish(title="other")
        bid, late = rival.bid(other), third.bid(other)
        lower = rival.twin().rewind(bid).publish()
        assert agreed(job.seed, job.bid, other, bid, late, lower).status(job.seed) == "Disputed"


def test_a_bid_too_many_pins_nothing() -> None:
    """Whether it came before or after the fork: the cap is that of its author's feed."""
    job, eager, rival = Job(), Author("eager"), Author("rival")
    other = job.creator.twin().rewind(job.seed).publish(title="other")
    bids = [eager.bid(job.seed) for _ in range(32)]
    beyond = eager.bid(other)
    bid = rival.bid(other)
    lower = rival.twin().rewind(bid).publish()
    record = agreed(job.seed, other, *bids, beyond, bid, lower).record(job.seed)
    assert (record.progress.status, len(record.bids)) == ("Open", 32)
