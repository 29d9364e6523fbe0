"""State is a function of the set of facts as long as nobody forks, and the lifecycle is that of the reference."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from crabnet.domain.decision import decide
from crabnet.domain.model import FINAL, Fact, Progress, SeedStatus
from crabnet.domain.record import EMPTY, claimed_bids
from crabnet.domain.state import Outcome, Propose, State, apply
from tests.domain.reference import Standing, about, seen, standing
from tests.support.facts import CREATOR, RIVAL, STRANGER, WORKER, Scribe, Witness, counting, everything
from tests.support.made_up import histories, interleaved

RANDOMS = st.randoms(use_true_random=False)


def comparable(found: Standing | None) -> Standing | None:
    """Without the bids on a final seed: which of them came in time is all that nodes need not agree on."""
    return found._replace(bids=frozenset()) if found is not None and found.status in FINAL else found


def assert_as_the_reference_says(state: State, facts: list[Fact]) -> None:
    for seed_id, mine in about(facts).items():
        record = state.records.get(seed_id, EMPTY)
        assert comparable(seen(record)) == comparable(standing(mine, everything))


@given(histories())
def test_the_tables_say_what_the_reference_says(facts: list[Fact]) -> None:
    assert_as_the_reference_says(Witness(facts).state, facts)


@given(histories(facts_max=30), RANDOMS)
def test_any_causal_order_gives_the_same_state(facts: list[Fact], random: Random) -> None:
    expected = Witness(facts).state
    for _ in range(3):
        state = Witness(interleaved(facts, random)).state
        assert state.records.keys() == expected.records.keys()
        assert +state.counts == +expected.counts
        assert state.digest() == expected.digest()
        for seed_id, record in state.records.items():
            if record.progress.status not in FINAL:
                assert counting(record) == counting(expected.records[seed_id])


def what_counts(state: State) -> dict[str, object]:
    """What the state hash covers, in other words."""
    return {
        seed_id: (record.seed, claimed_bids(record), record.others, record.progress)
        for seed_id, record in state.records.items()
    }


@given(histories())
def test_the_hash_tells_every_state_from_those_before(facts: list[Fact]) -> None:
    witness = Witness()
    digests = {witness.state.digest()}
    for fact in facts:
        before = what_counts(witness.state)
        witness.observe(fact)
        digest = witness.state.digest()
        assert (digest in digests) == (what_counts(witness.state) == before)
        digests.add(digest)


@pytest.mark.parametrize("signed", [True, False])
def test_the_hash_covers_the_bids_that_were_claimed_and_no_others(signed: bool) -> None:
    def digests(price: int, *, claimed: bool) -> bytes:
        scribe = Scribe(signed=signed)
        seed = scribe.seed()
        bid, other = scribe.bid(seed.key, price=price), scribe.bid(seed.key, RIVAL)
        claim = scribe.claim(seed.key, bid.key) if claimed else scribe.claim(seed.key, other.key, RIVAL)
        return Witness([seed, bid, other, claim]).state.digest()

    assert digests(5, claimed=True) != digests(6, claimed=True)
    assert digests(5, claimed=False) == digests(6, claimed=False)


@given(histories(), RANDOMS)
def test_progress_only_grows_while_feeds_grow(facts: list[Fact], random: Random) -> None:
    witness = Witness()
    versions: dict[str, int] = {}
    finals: dict[str, Progress] = {}
    for fact in interleaved(facts, random):
        witness.observe(fact)
        for seed_id, record in witness.state.records.items():
            version = record.progress.version
            assert version >= versions.get(seed_id, 0)
            versions[seed_id] = version
            if record.progress.status in FINAL:
                assert record.progress == finals.setdefault(seed_id, record.progress)


@given(histories())
def test_what_is_proposed_counts_or_changes_nothing(facts: list[Fact]) -> None:
    """An operator's fact that is accepted is accepted by every node that has heard the same."""
    witness = Witness()
    for fact in facts:
        before = dict(witness.state.records)
        decision = decide(witness.state, Propose(fact), now_s=fact.ts)
        assert witness.state.records == before
        if decision.outcome is Outcome.ACCEPTED:
            (event,) = decision.events
            for_others = decide(witness.state, witness.command(fact), now_s=0)
            assert [msgspec.structs.replace(each, decided=None) for each in for_others.events] == [
                msgspec.structs.replace(event, decided=None)
            ]
            apply(witness.state, event)
            assert witness.state.records[fact.seed_id].find(fact.ref) is fact
            witness.state.replace(fact.seed_id, before.get(fact.seed_id))
        else:
            assert decision.reason is not None
        witness.observe(fact)


class Network(RuleBasedStateMachine):
    """Several people state things about one seed; two nodes hear of them in different orders."""

    seeds: Bundle[str] = Bundle("seeds")
    bids: Bundle[str] = Bundle("bids")
    claims: Bundle[str] = Bundle("claims")
    results: Bundle[str] = Bundle("results")
    settlements: Bundle[Fact] = Bundle("settlements")
    people = st.sampled_from([WORKER, RIVAL])
    anybody = st.sampled_from([CREATOR, CREATOR, CREATOR, CREATOR, WORKER, STRANGER])

    def __init__(self) -> None:
        super().__init__()
        self.scribe = Scribe()
        self.prompt = Witness()
        self.slow = Witness()
        self.delayed: list[Fact] = []

    def progress(self, seed_id: str) -> Progress:
        return self.prompt.state.records[seed_id].progress

    def tell(self, fact: Fact) -> str:
        self.prompt.observe(fact)
        self.delayed.append(fact)
        return fact.key

    @initialize(target=seeds, max_bids=st.integers(0, 2))
    def publish(self, max_bids: int) -> str:
        return self.tell(self.scribe.seed(max_bids=max_bids))

    @rule(seconds=st.sampled_from([1, 11, 50]))
    def wait(self, seconds: int) -> None:
        self.scribe.now_s += seconds

    @rule(target=bids, seed=seeds, author=people, price=st.sampled_from([1, 2, 3]))
    def bid(self, seed: str, author: str, price: int) -> str:
        return self.tell(self.scribe.bid(seed, author, price=price))

    @rule(target=claims, seed=seeds, bid=bids, author=anybody, late=st.booleans())
    def claim(self, seed: str, bid: str, author: str, late: bool) -> str:
        progress = self.progress(seed)
        attempt = progress.attempt + (late or progress.status is SeedStatus.FORFEITED)
        return self.tell(self.scribe.claim(seed, bid, bid.partition("/")[0], author, attempt=attempt))

    @rule(seed=seeds, claim=claims, author=people)
    def start(self, seed: str, claim: str, author: str) -> None:
        self.tell(self.scribe.started(seed, claim, author))

    @rule(seed=seeds, claim=claims, author=people)
    def renew(self, seed: str, claim: str, author: str) -> None:
        self.tell(self.scribe.started(seed, claim, author, renews=self.progress(seed).run_id or "none"))

    @rule(target=results, seed=seeds, claim=claims, author=people, failed=st.sampled_from([None, "task", "worker"]))
    def result(self, seed: str, claim: str, author: str, failed: str | None) -> str:
        return self.tell(self.scribe.result(seed, claim, author, failed=failed))

    @rule(target=settlements, seed=seeds, claim=claims, result=results, author=anybody, accepted=st.booleans())
    def settle(self, seed: str, claim: str, result: str, author: str, accepted: bool) -> Fact:
        outcome = SeedStatus.ACCEPTED if accepted else SeedStatus.REJECTED
        attempt = self.progress(seed).attempt
        settlement = self.scribe.settle(seed, outcome, claim, result, author, attempt=attempt)
        self.tell(settlement)
        return settlement

    @rule(settlement=settlements, author=people)
    def acknowledge(self, settlement: Fact, author: str) -> None:
        self.tell(self.scribe.acknowledges(settlement, author))

    @rule(seed=seeds, claim=claims, author=anybody)
    def forfeit(self, seed: str, claim: str, author: str) -> None:
        attempt = self.progress(seed).attempt
        self.tell(self.scribe.settle(seed, SeedStatus.FORFEITED, claim, None, author, attempt=attempt))

    @rule(seed=seeds, claim=claims, result=results, author=anybody)
    def forfeit_by_the_workers_word(self, seed: str, claim: str, result: str, author: str) -> None:
        attempt = self.progress(seed).attempt
        on = next(fact.envelope for fact in self.scribe.facts if fact.key == result)
        said = self.scribe.settle(seed, SeedStatus.FORFEITED, claim, None, author, attempt=attempt, rests_on=on)
        self.tell(said)

    @rule(seed=seeds, author=anybody)
    def close(self, seed: str, author: str) -> None:
        self.tell(self.scribe.settle(seed, SeedStatus.EXPIRED, author=author))

    @rule(seed=seeds, claim=claims, author=anybody)
    def withdraw(self, seed: str, claim: str, author: str) -> None:
        attempt = self.progress(seed).attempt
        self.tell(self.scribe.settle(seed, SeedStatus.EXPIRED, claim, None, author, attempt=attempt))

    @rule(random=st.randoms(use_true_random=False))
    def deliver(self, random: Random) -> None:
        for fact in interleaved(self.delayed, random, self.slow.heard):
            self.slow.observe(fact)
        self.delayed = []
        assert self.slow.state.digest() == self.prompt.state.digest()

    @invariant()
    def reference(self) -> None:
        assert_as_the_reference_says(self.prompt.state, self.scribe.facts)

    def teardown(self) -> None:
        self.deliver(Random(0))


TestNetwork = Network.TestCase
