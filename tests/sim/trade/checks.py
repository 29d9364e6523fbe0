"""What must hold in a market after every step, whatever the others do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from crabnet.core.effects import Effects, FeedPlace, RunOrder
from crabnet.domain.model import FINAL, Bid, Claim, FactKind, Seed, SeedStatus, Settlement, TaskResult
from crabnet.domain.record import Record, counting_bids
from crabnet.errors import Reason
from crabnet.market.policies import Accepting, AwardRule, Terms
from tests.sim.checks import ViolationError
from tests.sim.trade.buyers import Asked, Buyer, record_of
from tests.sim.trade.idle import Idle
from tests.sim.trade.rules import Situation, objections, open_questions, price_of, refusal
from tests.sim.trade.tasks import is_true
from tests.sim.trade.trader import Shop, Trader
from tests.sim.world import SimNode

HEARD_MS = 25_000
"""A buyer in a network that was whole for this long has all results, whatever is lost on the way."""


_COUNTED: Final = frozenset(
    {"purchase_given_up", "purchase_retried", "purchase_ended", "task_declined", "bid_declined", "result_judged"}
)


class Delivery(NamedTuple):
    """A result of an honest worker that says the truth and was stated before the deadline."""

    seed_id: str
    claim_id: str
    worker: SimNode
    at_ms: int


class Honesty(Idle):
    """Watches a market: buyers and workers are known by their operators and shops.

    ``broken_ms`` says when a node was last down or cut off from another.
    """

    def __init__(
        self, buyers: Mapping[str, Buyer], traders: Mapping[str, Trader], broken_ms: Callable[[], int]
    ) -> None:
        self._buyers = buyers
        self._traders = traders
        self._broken_ms = broken_ms
        self._asked: dict[str, Asked] = {}
        """The seed that began a purchase -> what was ordered."""
        self._root: dict[str, str] = {}
        """Seed -> the one that began its purchase."""
        self._follower: dict[str, str] = {}
        self._claims: dict[str, set[str]] = {}
        """Purchase -> its claims."""
        self._ended: dict[str, int] = {}
        self._executed: dict[tuple[str, int], str] = {}
        self._claims_executed: set[str] = set()
        self.delivered: dict[str, Delivery] = {}
        self._started_ms: dict[str, int] = {}
        self.away: set[str] = set()
        """Seeds after one of whose steps a party was off."""
        self.counts: Counter[str] = Counter()
        """What was seen, so that tests can tell that something was tested."""

    def asked(self, asked: Asked) -> None:
        """A buyer has ordered something."""
        seed_id = asked.seed.id
        self._forget(seed_id)
        self._asked[seed_id] = asked
        self._root[seed_id] = seed_id

    def _forget(self, seed_id: str) -> None:
        """A crash has taken back what was published under this id, and now it is given again."""
        self._asked.pop(seed_id, None)
        self._claims.pop(seed_id, None)
        self._ended.pop(seed_id, None)
        self._follower = {before: after for before, after in self._follower.items() if after != seed_id}

    @property
    def purchases(self) -> Iterable[tuple[Asked, str]]:
        """All that was ordered, with the last seed of each purchase."""
        for root, asked in self._asked.items():
            last = root
            while last in self._follower:
                last = self._follower[last]
            yield asked, last

    def is_honest_buyer(self, node: SimNode) -> bool:
        """True if the operator of a node keeps its word."""
        buyer = self._buyers.get(node.name)
        return buyer is not None and buyer.honest

    # --- steps -----------------------------------------------------------------------------------------

    def stepped(self, node: SimNode, effects: Effects) -> None:
        own = [place.row for place in effects.places if place.row.author == node.id]
        bids = [row.seed_id for row in own if row.kind is FactKind.BID]
        for number, seed_id in enumerate(bids):
            self._bid(node, seed_id, frozenset(bids[number:]))
        for row in own:
            record = record_of(node, row.seed_id)
            seed = record.definition
            if seed is None:
                continue
            fact = next((each for each in record.facts() if each.envelope == row.envelope_id), None)
            body = None if fact is None else fact.body
            if isinstance(body, Seed):
                self._published(node, body)
            if not self.is_honest_buyer(node):
                continue
            if isinstance(body, Claim):
                self._claimed(node, seed, record, body)
            elif isinstance(body, Settlement):
                self._settled(node, seed, record, body)

    def _published(self, node: SimNode, seed: Seed) -> None:
        if seed.follows is None:
            return
        before = self._follower.setdefault(seed.follows, seed.id)
        if before != seed.id and record_of(node, before).seed is not None:
            raise ViolationError(f"{node.name}: {before} and {seed.id} take up {seed.follows} again")
        self._forget(seed.id)
        self._follower[seed.follows] = seed.id
        root = self._root.get(seed.follows)
        if root is None:
            raise ViolationError(f"{node.name} takes up {seed.follows} again, which nobody ordered")
        self._root[seed.id] = root
        self.counts["followers"] += 1
        if self._asked[root].terms is None:
            raise ViolationError(f"{node.name} takes up {seed.follows} again, which is no purchase")

    # --- workers ---------------------------------------------------------------------------------------

    def _bid(self, node: SimNode, seed_id: str, besides: frozenset[str]) -> None:
        record = record_of(node, seed_id)
        mine = [fact.body for fact in record.bids if fact.author == node.id]
        seed, trader = record.definition, self._traders[node.name]
        if seed is None or len(mine) != 1 or not isinstance(mine[0], Bid):
            raise ViolationError(f"{node.name} has {len(mine)} bids for {seed_id}")
        why = refusal(seed, self.situation(node, trader.shop), besides)
        if why:
            raise ViolationError(f"{node.name} bids for {seed_id} of {seed.created_by} in spite of: {why}")
        least = price_of(seed, trader.shop)
        if mine[0].price < least or 0 < seed.reward < mine[0].price:
            raise ViolationError(f"{node.name} bids {mine[0].price} for {seed_id}, its price is {least}")
        self.counts["bids"] += 1

    @staticmethod
    def situation(node: SimNode, shop: Shop) -> Situation:
        """Where a worker stands now."""
        replica = node.running.replica
        return Situation(
            name=node.name,
            worker=node.id,
            shop=shop,
            now_ms=node.now_ms,
            virtual_ms=node.world.virtual_ms,
            records=replica.state.records,
            forked=frozenset(feed.author for feed in replica.feeds.all() if feed.end),
        )

    def executed(self, node: SimNode, order: RunOrder) -> None:
        """The process of a run starts."""
        if order.claim_id in self._claims_executed:
            raise ViolationError(f"{node.name} runs {order.seed_id} for claim {order.claim_id} once more")
        self._claims_executed.add(order.claim_id)
        self.counts["executions"] += 1
        if order.seed_id not in self._root:
            return  # of a publisher without a core, who may claim two bids at the same time
        other = self._executed.setdefault((order.seed_id, order.attempt), node.name)
        if other != node.name:
            raise ViolationError(f"{node.name} and {other} run {order.seed_id} #{order.attempt}")

    # --- buyers ----------------------------------------------------------------------------------------

    def _terms(self, node: SimNode, seed_id: str) -> Terms:
        """The terms of a purchase, or those that the settings make."""
        asked = self._asked[self._root[seed_id]]
        if asked.terms is not None:
            return asked.terms
        config = node.config
        return Terms(
            award=config.auto_award,
            price_max=asked.seed.reward or None,
            tries_max=config.reclaim_attempts_max,
            accept=config.auto_settle or Accepting.NEVER,
        )

    def _claimed(self, node: SimNode, seed: Seed, record: Record, claim: Claim) -> None:
        terms, root = self._terms(node, seed.id), self._root[seed.id]
        claims = self._claims.setdefault(root, set())
        claims.add(claim.id)
        if len({each for each in claims if not self._is_lost(node, root, each)}) > terms.tries_max:
            raise ViolationError(f"{node.name} tries {root} {len(claims)} times, at most {terms.tries_max}")
        bid = next((fact.body for fact in record.bids if fact.key == claim.bid_id), None)
        if not isinstance(bid, Bid) or (terms.price_max is not None and bid.price > terms.price_max):
            raise ViolationError(f"{node.name} claims {bid} for {seed.id}, above {terms.price_max}")
        if terms.worker is not None and claim.worker != terms.worker:
            raise ViolationError(f"{node.name} claims a bid of {claim.worker}, not of {terms.worker}")
        if claim.worker in {*self._began_before(node, seed, record, claim)}:
            raise ViolationError(f"{node.name} gives {seed.id} to {claim.worker} again, who has failed in it")
        first = claim.attempt == 1 and seed.follows is None
        fitting = [fact.body.price for fact in counting_bids(record) if isinstance(fact.body, Bid)]
        if first and terms.award is AwardRule.CHEAPEST and terms.worker is None and bid.price > min(fitting):
            forked = {feed.author for feed in node.running.replica.feeds.all() if feed.end}
            if not forked & {fact.author for fact in record.bids}:
                raise ViolationError(f"{node.name} claims a bid of {bid.price} for {seed.id}, the cheapest: {fitting}")
        self.counts["claims"] += 1
        self.counts["claims after a failure"] += not first

    def _is_lost(self, node: SimNode, root: str, claim_id: str) -> bool:
        """True for a claim that a crash has taken back before it was durable."""
        chain = [seed_id for seed_id, begun in self._root.items() if begun == root]
        facts = (fact for seed_id in chain for fact in record_of(node, seed_id).facts())
        return all(fact.key != claim_id for fact in facts)

    def _began_before(self, node: SimNode, seed: Seed, record: Record, claim: Claim) -> Iterable[str]:
        """The workers that had begun earlier tries of this purchase."""
        seen: Seed | None = seed
        while seen is not None:
            held = record if seen is seed else record_of(node, seen.id)
            claims = {fact.key: fact.body for fact in held.others if isinstance(fact.body, Claim)}
            for fact in held.facts():
                body = fact.body
                if fact.kind in {FactKind.STARTED, FactKind.RESULT} and not isinstance(body, Seed | Bid | Claim):
                    begun = claims.get(getattr(body, "claim_id", None) or "")
                    if begun is not None and begun.id != claim.id:
                        yield begun.worker
            seen = None if seen.follows is None else record_of(node, seen.follows).definition

    def _settled(self, node: SimNode, seed: Seed, record: Record, settled: Settlement) -> None:
        buyer = self._buyers[node.name]
        if settled.outcome is SeedStatus.FORFEITED:
            self._forfeited(node, seed, record, settled)
            return
        result = None if record.result is None else record.result.body
        if settled.outcome not in {SeedStatus.ACCEPTED, SeedStatus.REJECTED} or not isinstance(result, TaskResult):
            return
        self.counts[f"{settled.outcome.value} {'truth' if is_true(seed.command, result) else 'lie'}"] += 1
        if buyer.settling:
            return  # its operator has looked at it
        wrong, unknown = objections(result, seed.acceptance), open_questions(result, seed.acceptance)
        if settled.outcome is SeedStatus.ACCEPTED and (wrong or unknown):
            raise ViolationError(f"{node.name} accepts {result} of {seed.command}: {wrong or unknown}")
        if settled.outcome is SeedStatus.REJECTED and not wrong:
            raise ViolationError(f"{node.name} rejects {result} of {seed.command}, and nothing is wrong with it")
        if result.worker_failed or (
            settled.outcome is SeedStatus.ACCEPTED
            and seed.acceptance is None
            and self._terms(node, seed.id).accept is not Accepting.AUTO
        ):
            raise ViolationError(f"{node.name} settles {seed.id}, which its operator should")

    def _forfeited(self, node: SimNode, seed: Seed, record: Record, settled: Settlement) -> None:
        """A worker who did what it should loses its claim only if the buyer could not know."""
        done = self.delivered.get(settled.claim_id or "")
        self.counts["forfeits"] += 1
        life_ms = node.world.now_ms - self._started_ms[node.name]
        by_deadline = settled.rests_on in {fact.envelope for fact in record.others if fact.kind is FactKind.CLAIM}
        if by_deadline and life_ms < node.config.execution_grace_ms:
            raise ViolationError(f"{node.name} forfeits {seed.id} {life_ms} ms after its start")
        if done is None:
            return
        now_ms, broken_ms = node.world.now_ms, self._broken_ms()
        if now_ms - max(broken_ms, done.at_ms) >= HEARD_MS:
            raise ViolationError(
                f"{node.name} forfeits {seed.id}, though {done.worker.name} delivered {now_ms - done.at_ms} ms ago, and"
                f" the network is whole for {now_ms - broken_ms} ms"
            )
        self.counts["excused forfeits"] += 1
        del self.delivered[done.claim_id]

    # --- what is durable -------------------------------------------------------------------------------

    def durable(self, node: SimNode, effects: Effects) -> None:
        for notice in effects.notices:
            if notice.kind in _COUNTED:
                self.counts[notice.kind] += 1
            if notice.kind == "result_judged" and notice.fields["status"] is None:
                self._buyers[node.name].asked.setdefault(str(notice.fields["result_id"]), node.now_ms)
                self.counts["results that an operator has to look at"] += 1
            if notice.kind == "purchase_ended":
                self._end(node, str(notice.fields["seed_id"]))
        for place in effects.places:
            if place.row.author == node.id and place.row.kind is FactKind.RESULT:
                self._deliver(node, place)

    def _end(self, node: SimNode, seed_id: str) -> None:
        root = self._root[seed_id]
        self._ended[root] = self._ended.get(root, 0) + 1
        if self._ended[root] > 1:
            raise ViolationError(f"{node.name}: the purchase {root} ends {self._ended[root]} times")

    def _deliver(self, node: SimNode, place: FeedPlace) -> None:
        record = record_of(node, place.row.seed_id)
        seed, result = record.definition, None if record.result is None else record.result.body
        if seed is None or not isinstance(result, TaskResult) or result.claim_id is None:
            return
        claimed_at = record.progress.claimed_at or 0
        in_time = node.now_ms <= claimed_at * 1000 + max(seed.exec_deadline_ms, seed.timeout_ms)
        if is_true(seed.command, result):
            self.counts["true results"] += 1
            if in_time and seed.id in self._root:
                self.delivered[result.claim_id] = Delivery(
                    seed_id=seed.id, claim_id=result.claim_id, worker=node, at_ms=node.world.now_ms
                )
        else:
            self.counts["false results"] += 1

    def started(self, node: SimNode) -> None:
        """A life begins."""
        self._started_ms[node.name] = node.world.now_ms

    # --- the end ---------------------------------------------------------------------------------------

    def unfinished(self, nodes: Iterable[SimNode]) -> list[str]:
        """The purchases of honest buyers that have not ended, in words."""
        by_name = {node.name: node for node in nodes}
        found = []
        for asked, last in self.purchases:
            node = by_name[asked.buyer]
            if not self.is_honest_buyer(node):
                continue
            if node.core is None:
                found.append(f"{asked.seed.id}: {node.name} is down")
                continue
            record = record_of(node, last)
            open_terms = [each for each, root in self._root.items()
                          if root == asked.seed.id and node.core.replica.purchases.get(each) is not None]  # fmt: skip
            if record.seed is not None and (record.progress.status not in FINAL or open_terms):
                found.append(f"{node.name} {asked.terms} {last} {record.progress} terms of {open_terms}")
        return found

    def verdict(self, nodes: Iterable[SimNode]) -> None:
        """Each purchase of an honest buyer has paid once at most and has ended; who delivered was settled."""
        by_name = {node.name: node for node in nodes}
        for asked, last in self.purchases:
            node = by_name[asked.buyer]
            if self.is_honest_buyer(node):
                self._judge(node, asked, last)
        for done in self.delivered.values():
            buyer = by_name[self._asked[self._root[done.seed_id]].buyer]
            record = record_of(buyer, done.seed_id)
            if self.is_honest_buyer(buyer):
                self._judge_delivery(done, buyer, record)

    def _judge(self, node: SimNode, asked: Asked, last: str) -> None:
        chain = [seed_id for seed_id, root in self._root.items() if root == asked.seed.id]
        statuses = [record_of(node, seed_id).progress.status for seed_id in chain]
        if statuses.count(SeedStatus.ACCEPTED) > 1:
            raise ViolationError(f"{node.name} has paid {asked.seed.id} twice: {chain}")
        if record_of(node, last).seed is None:
            return  # a crash has taken it back
        status = record_of(node, last).progress.status
        self.counts[f"ended {status.value}"] += 1
        if status is not SeedStatus.EXPIRED or last in self._buyers[node.name].by_hand:
            return
        closes = [fact.body.note for fact in record_of(node, last).others
                  if fact.kind is FactKind.CLOSE and isinstance(fact.body, Settlement)]  # fmt: skip
        reason = closes[0].partition(":")[0] if closes else ""
        if asked.terms is not None and reason not in {each.value for each in Reason}:
            raise ViolationError(f"{node.name} gives {last} up without a Reason: {closes}")
        self.counts[f"given up {reason}"] += 1

    def _judge_delivery(self, done: Delivery, buyer: SimNode, record: Record) -> None:
        result = None if record.result is None else record.result.body
        stands = isinstance(result, TaskResult) and result.claim_id == done.claim_id
        seed = record.definition
        if seed is None or not isinstance(result, TaskResult) or not stands:
            if done.seed_id in self._buyers[buyer.name].by_hand:
                return  # its operator has withdrawn it
            raise ViolationError(f"{buyer.name}: the result of {done} does not count: {record.progress}")
        wrong = objections(result, seed.acceptance)
        expected = SeedStatus.REJECTED if wrong else SeedStatus.ACCEPTED
        by_hand = done.seed_id in self._buyers[buyer.name].by_hand
        if record.progress.status is not expected and not by_hand:
            raise ViolationError(f"{buyer.name}: {done} is {record.progress.status.value}: {wrong}")
        self.counts["honest work settled"] += 1
        self.counts["honest work settled in spite of an absence"] += done.seed_id in self.away
