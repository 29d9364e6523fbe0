"""State is a function of the set of facts, and the lifecycle is that of the reference."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from crabnet.domain.decision import decide
from crabnet.domain.fold import rebuild
from crabnet.domain.model import Fact, Progress, Seed, SeedStatus
from crabnet.domain.state import Observe, Outcome, Propose, Retract, State, apply
from tests.domain.reference import Standing, Verdicts, standing
from tests.support.facts import (
    CREATOR,
    RIVAL,
    STRANGER,
    WORKER,
    Scribe,
    histories,
    history,
    interleavings,
    observe,
    state_of,
)


def about(facts: list[Fact]) -> dict[str, list[Fact]]:
    """The facts by seed."""
    by_seed: dict[str, list[Fact]] = {}
    for fact in facts:
        by_seed.setdefault(fact.seed_id, []).append(fact)
    return by_seed


def admissible(facts: list[Fact]) -> list[Fact]:
    """Without definitions that name another creator, which are refused and not kept."""
    return [fact for fact in facts if not isinstance(fact.body, Seed) or fact.body.created_by == fact.author]


def seen(state: State, seed_id: str) -> tuple[Standing, Verdicts]:
    """What a state says of a seed, in the words of the reference."""
    record = state.records[seed_id]
    progress = record.progress
    found = Standing(
        progress.status.value,
        progress.attempt,
        progress.claim_id,
        progress.claimed_by,
        progress.run_id,
        progress.result_id,
    )
    verdicts: Verdicts = {}
    for entry in (*record.bids, *record.others):
        reason = entry.judgement.reason
        verdicts[entry.fact.key] = (entry.judgement.verdict.value, None if reason is None else reason.value)
    return found, verdicts


@given(histories())
def test_the_tables_say_what_the_reference_says(facts: list[Fact]) -> None:
    state = state_of(facts)
    for seed_id, mine in about(admissible(facts)).items():
        assert seen(state, seed_id) == standing(mine)


@given(histories(), st.randoms(use_true_random=False))
def test_any_order_and_duplication_gives_the_same_state(facts: list[Fact], random: object) -> None:
    expected = state_of(facts)
    shuffled = facts + facts[::2]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for order in (facts[::-1], shuffled, facts + facts):
        state = state_of(order)
        assert state.records == expected.records
        assert state.digest() == expected.digest()
        assert (state.counts, state.totals, state.orphans) == (expected.counts, expected.totals, expected.orphans)
        assert state.orphans_total == expected.orphans_total
    for seed_id, mine in about(admissible(facts)).items():
        assert rebuild(mine) == expected.records[seed_id]


@given(histories())
def test_replay_of_the_events_is_the_live_state(facts: list[Fact]) -> None:
    live, replayed, events = State(), State(), []
    for fact in facts:
        decision = decide(live, Observe(fact), now_s=0)
        for event in decision.events:
            apply(live, event)
            events.append(event)
        live.hash_some(1)
    for event in events:
        apply(replayed, event)
    assert replayed.records == live.records
    assert replayed.digest() == live.digest()
    loaded = State()
    loaded.load(dict(live.records), live.accumulated())
    assert loaded.digest() == live.digest()
    recomputed = State()
    recomputed.load(dict(live.records), None)
    assert recomputed.digest() == live.digest()
    assert (loaded.counts, loaded.totals, loaded.orphans) == (live.counts, live.totals, live.orphans)


def what_counts(state: State) -> dict[str, object]:
    """What the state hash covers, in other words."""
    return {
        seed_id: (record.seed, record.bids, [entry for entry in record.others if entry.effective], record.progress)
        for seed_id, record in state.records.items()
        if record.seed is not None
    }


@given(histories())
def test_the_hash_tells_every_state_from_those_before(facts: list[Fact]) -> None:
    state = State()
    digests = {state.digest()}
    for fact in facts:
        before = what_counts(state)
        observe(state, fact)
        assert (state.digest() in digests) == (what_counts(state) == before)
        digests.add(state.digest())


@given(histories())
def test_events_applied_twice_or_to_another_state_raise_nothing(facts: list[Fact]) -> None:
    live = State()
    events = []
    for fact in facts:
        for event in decide(live, Observe(fact), now_s=0).events:
            apply(live, event)
            events.append(event)
    other = State()
    for event in (*reversed(events), *events):
        apply(other, event)
    assert len(other.digest()) == 32


@given(histories(), st.data())
def test_progress_only_grows_while_feeds_grow(facts: list[Fact], data: st.DataObject) -> None:
    state = State()
    versions: dict[str, int] = {}
    finals: dict[str, Progress] = {}
    for fact in data.draw(interleavings(facts)):
        observe(state, fact)
        for seed_id, record in state.records.items():
            version = record.progress.version
            assert version >= versions.get(seed_id, 0)
            versions[seed_id] = version
            if record.progress.status in {SeedStatus.ACCEPTED, SeedStatus.REJECTED, SeedStatus.EXPIRED}:
                settled = finals.setdefault(seed_id, record.progress)
                assert msgspec.structs.replace(record.progress, run_id=settled.run_id) == settled


@given(histories(), st.data())
def test_retracting_a_branch_leaves_what_the_others_say(facts: list[Fact], data: st.DataObject) -> None:
    author = data.draw(st.sampled_from([CREATOR, WORKER, RIVAL, STRANGER]))
    from_seq = data.draw(st.integers(1, 6))
    state = state_of(data.draw(st.permutations(facts)))
    command = Retract(author, from_seq, frozenset(state.records) | {"unknown"})
    decision = decide(state, command, now_s=0)
    assert decision.outcome is Outcome.ACCEPTED
    for event in decision.events:
        apply(state, event)
    kept = [fact for fact in facts if fact.author != author or fact.seq < from_seq]
    expected = state_of(kept)
    assert state.records == expected.records
    assert state.digest() == expected.digest()
    assert (state.counts, state.totals, state.orphans) == (expected.counts, expected.totals, expected.orphans)


@given(histories(), st.integers(1, 6), st.data())
def test_nodes_that_saw_a_fork_from_either_side_agree(facts: list[Fact], fork: int, data: st.DataObject) -> None:
    """The creator signs two branches from ``fork`` on; whoever holds the loser retracts it and takes the winner."""
    shared = [fact for fact in facts if fact.author != CREATOR or fact.seq < fork]
    loser = [fact for fact in facts if fact.author == CREATOR and fact.seq >= fork]
    scribe = Scribe()
    scribe.now_s = 1_005
    seed_id = f"{CREATOR}/1"
    scribe.facts, scribe._seqs = [], {CREATOR: fork - 1}
    scribe.settle(seed_id, SeedStatus.EXPIRED) if fork > 1 else scribe.seed(min_price=0)
    winner = scribe.facts
    one = state_of(data.draw(st.permutations(shared + loser)))
    for event in decide(one, Retract(CREATOR, fork, frozenset(one.records)), now_s=0).events:
        apply(one, event)
    for fact in winner:
        observe(one, fact)
    two = state_of(data.draw(st.permutations(shared + winner)))
    assert one.records == two.records
    assert one.digest() == two.digest()


@given(histories())
def test_what_is_proposed_is_accepted_or_changes_nothing(facts: list[Fact]) -> None:
    state = State()
    for fact in facts:
        before = dict(state.records)
        decision = decide(state, Propose(fact), now_s=fact.ts)
        assert state.records == before
        if decision.outcome is Outcome.ACCEPTED:
            for event in decision.events:
                apply(state, event)
            assert seen(state, fact.seed_id)[1].get(fact.key, ("effective", None)) == ("effective", None)
        else:
            assert decision.events == ()
            assert decision.reason is not None


class Network(RuleBasedStateMachine):
    """Several people state things about one seed; two nodes hear of them in different orders."""

    seeds: Bundle[str] = Bundle("seeds")
    bids: Bundle[str] = Bundle("bids")
    claims: Bundle[str] = Bundle("claims")
    results: Bundle[str] = Bundle("results")
    people = st.sampled_from([WORKER, RIVAL])
    anybody = st.sampled_from([CREATOR, CREATOR, CREATOR, CREATOR, WORKER, STRANGER])

    def __init__(self) -> None:
        super().__init__()
        self.scribe = Scribe()
        self.prompt = State()
        self.slow = State()
        self.delayed: list[Fact] = []

    def tell(self, fact: Fact) -> str:
        observe(self.prompt, fact)
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
        progress = self.prompt.records[seed].progress
        attempt = progress.attempt + (late or progress.status is SeedStatus.FORFEITED)
        return self.tell(self.scribe.claim(seed, bid, bid.partition("/")[0], author, attempt=attempt))

    @rule(seed=seeds, claim=claims, author=people)
    def start(self, seed: str, claim: str, author: str) -> None:
        self.tell(self.scribe.started(seed, claim, author))

    @rule(seed=seeds, claim=claims, author=people)
    def renew(self, seed: str, claim: str, author: str) -> None:
        renews = self.prompt.records[seed].progress.run_id or "none"
        self.tell(self.scribe.started(seed, claim, author, renews=renews))

    @rule(target=results, seed=seeds, claim=claims, author=people)
    def result(self, seed: str, claim: str, author: str) -> str:
        return self.tell(self.scribe.result(seed, claim, author))

    @rule(seed=seeds, claim=claims, result=results, author=anybody, accepted=st.booleans())
    def settle(self, seed: str, claim: str, result: str, author: str, accepted: bool) -> None:
        outcome = SeedStatus.ACCEPTED if accepted else SeedStatus.REJECTED
        attempt = self.prompt.records[seed].progress.attempt
        self.tell(self.scribe.settle(seed, outcome, claim, result, author, attempt=attempt))

    @rule(seed=seeds, claim=claims, author=anybody)
    def forfeit(self, seed: str, claim: str, author: str) -> None:
        attempt = self.prompt.records[seed].progress.attempt
        self.tell(self.scribe.settle(seed, SeedStatus.FORFEITED, claim, None, author, attempt=attempt))

    @rule(seed=seeds, author=anybody)
    def close(self, seed: str, author: str) -> None:
        self.tell(self.scribe.settle(seed, SeedStatus.EXPIRED, author=author))

    @rule(seed=seeds, claim=claims, author=anybody)
    def withdraw(self, seed: str, claim: str, author: str) -> None:
        attempt = self.prompt.records[seed].progress.attempt
        self.tell(self.scribe.settle(seed, SeedStatus.EXPIRED, claim, None, author, attempt=attempt))

    @rule(newest_first=st.booleans())
    def deliver(self, newest_first: bool) -> None:
        for fact in reversed(self.delayed) if newest_first else self.delayed:
            observe(self.slow, fact)
        self.delayed = []
        assert self.slow.digest() == self.prompt.digest()

    @invariant()
    def reference(self) -> None:
        for seed_id, mine in about(self.scribe.facts).items():
            assert seen(self.prompt, seed_id) == standing(mine)

    def teardown(self) -> None:
        self.deliver(newest_first=True)


TestNetwork = Network.TestCase


def test_the_histories_reach_every_status() -> None:
    """Guards the tests above: what they draw is not only the beginning of lives."""
    reached: set[str] = set()
    attempts: set[int] = set()
    reasons: set[str] = set()
    for number in range(300):
        state = State()
        for fact in history(number, 24, 2):
            observe(state, fact)
        for seed_id in state.records:
            found, verdicts = seen(state, seed_id)
            reached.add(found.status)
            attempts.add(found.attempt)
            reasons.update(reason for _, reason in verdicts.values() if reason is not None)
    assert reached == {status.value for status in SeedStatus}
    assert attempts >= {1, 2, 3}
    assert reasons >= {"unauthorised", "wrong_state", "price_too_low", "deadline_passed", "not_due", "unknown_seed"}
    assert reasons >= {"unknown_bid", "unknown_claim", "unknown_result", "unknown_parent"}
