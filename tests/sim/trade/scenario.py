"""One run of a market: trade among crashes, absences and liars; calm, in which all purchases end; peace; a verdict."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from msgspec.structs import replace

from crabnet.core.config import CoreConfig
from crabnet.core.effects import Effects
from crabnet.core.replica.held import HeldRow
from crabnet.domain.local_rules import is_biddable
from crabnet.domain.model import FactKind, Seed
from crabnet.market.policies import Accepting, AwardRule
from crabnet.node.config import core_config
from crabnet.settings import Settings
from tests.sim.adversary import Adversary
from tests.sim.checks import Safety, ViolationError
from tests.sim.ending import STEP_MS, judge, rounds_until_agreed
from tests.sim.liars import KINDS
from tests.sim.node import SimNode
from tests.sim.p2p import P2p
from tests.sim.plan import tight_bounds
from tests.sim.trade.accounts import compare_accounts
from tests.sim.trade.buyers import BUYERS, Buyer, record_of
from tests.sim.trade.checks import Honesty
from tests.sim.trade.declines import Declines
from tests.sim.trade.idle import Idle
from tests.sim.trade.plan import PURCHASES, TIGHT, MarketPlan, Member, draw
from tests.sim.trade.rules import dealings_of, refusal
from tests.sim.trade.trader import Trader
from tests.sim.world import Weather, World
from tests.support.envelopes import signer

TRADE_MS_MAX = 200_000
CALM_MS_MAX = 500_000
"""Four tries, each with its windows, its deadline and the grace."""
PROBE_MS = 15_000
BID_MS = 2_000
"""A worker that has had no reason not to bid for this long, has bid."""
OUTSIDERS_LIES = 150
_ABSENCES: Final[dict[FactKind, float]] = {
    FactKind.SEED: 0.5,
    FactKind.BID: 0.1,
    FactKind.CLAIM: 0.4,
    FactKind.STARTED: 0.15,
    FactKind.RESULT: 0.15,
    FactKind.SETTLE: 0.15,
}
"""How often a party is off after a step, times the share of absences in the plan."""
_LOOK_MS = 1_000


class MarketOutcome(NamedTuple):
    """What a run came to. ``counts`` is what happened in it."""

    plan: MarketPlan
    digest: str
    virtual_ms: int
    crashes: int
    counts: dict[str, int]


class Market(Idle):
    """Runs a plan. It observes its nodes, too: it takes away their power in the middle of steps."""

    def __init__(self, plan: MarketPlan) -> None:
        self.plan = plan
        self.world = world = World(plan.seed, forks=True)
        self.rng = world.rng
        self.crashes = 0
        self._ambushed = True
        self._broken_ms = 0
        self.buyers: dict[str, Buyer] = {}
        self.traders: dict[str, Trader] = {}
        self.honesty = Honesty(self.buyers, self.traders, lambda: self._broken_ms)
        self.nodes = [self._add(f"m{number}", member) for number, member in enumerate(plan.members)]
        self.adversaries: list[Adversary] = [
            KINDS[kind](world, f"liar{number}", budget=OUTSIDERS_LIES) for number, kind in enumerate(plan.outsiders)
        ]
        self.safety = Safety(frozenset(node.id for node in self.nodes), self._is_forker)
        self.declines = Declines(self.honesty.counts)
        world.observers += [self.safety, self.honesty, self.declines, self]
        self._connect()

    def _add(self, name: str, member: Member) -> SimNode:
        config: CoreConfig = replace(
            core_config(Settings()),
            work=member.shop.policy,
            auto_bid=member.shop.runs,
            auto_run=member.shop.runs,
            auto_award=AwardRule.CHEAPEST if member.by_settings and member.buyer == "honest" else None,
            auto_settle=Accepting.AUTO if member.by_settings and member.buyer == "honest" else None,
        )
        node = self.world.add(name, config, skew_ms=member.skew_ms)
        node.keep_notices = False
        node.disk_ms = (20, 800) if member.slow else (1, 8)
        rng = Random(f"{self.plan.seed} {name}")
        self.traders[name] = Trader(node, member.shop, rng, self.honesty.executed)
        if member.buyer:
            self.buyers[name] = BUYERS[member.buyer](node, rng)
        return node

    def _is_forker(self, author: str) -> bool:
        return any(author in adversary.forkers for adversary in self.adversaries)

    def _connect(self) -> None:
        """Everybody knows the first node and one more; the rest they learn."""
        if self.plan.network == "dht":
            self.world.p2p = p2p = P2p(self.world)
            for node in self.nodes:
                p2p.add(node, [self.nodes[0], self.rng.choice(self.nodes)])
            for adversary in self.adversaries:
                p2p.add(adversary, list(self.nodes))
        for node in self.nodes:
            node.with_udp = self.plan.network == "udp"
            known = {self.nodes[0].address, self.rng.choice(self.nodes).address} - {node.address}
            node.targets = sorted(known) if node.with_udp and node is not self.nodes[0] else []
            node.start()

    # --- trade -----------------------------------------------------------------------------------------

    def run(self) -> MarketOutcome:
        """Raises ViolationError for what must not be."""
        world = self.world
        world.run(3_000, tick_ms=STEP_MS)
        world.weather = self.plan.weather
        end_ms = world.now_ms + TRADE_MS_MAX
        wanted = self.plan.purchases
        while len(list(self.honesty.purchases)) < wanted and world.now_ms < end_ms:
            world.run(_LOOK_MS, tick_ms=STEP_MS, step=self._step)
        self._calm()
        self._heal()
        rounds_until_agreed(world, self.nodes)
        self._probe()
        rounds_until_agreed(world, self.nodes)
        world.observers.remove(self)
        self.honesty.verdict(self.nodes)
        compare_accounts(self.nodes)
        judge(self.nodes, self.safety)
        return MarketOutcome(
            self.plan, world.digest(), world.virtual_ms, self.crashes, dict(sorted(self.honesty.counts.items()))
        )

    def _step(self) -> None:
        self._look()
        if self.rng.random() < 0.06:
            self._order(self.rng.choice(list(self.buyers.values())))
        for adversary in self.adversaries:
            if self.rng.random() < 0.1:
                adversary.act()
        if self.rng.random() < 0.02 * self.plan.trouble:
            self.rng.choice([self._crash, self._part, self._checkpoint, self._one_way])()

    def _look(self) -> None:
        """Operators look at their tasks."""
        now_ms = self.world.now_ms
        if now_ms // STEP_MS % 10 == 0:
            for buyer in self.buyers.values():
                buyer.turn()
            for node in self.nodes:
                self.declines.bounded(node)
        if self.world.cut or any(node.core is None for node in self.nodes):
            self._broken_ms = now_ms

    def _order(self, buyer: Buyer) -> Seed | None:
        if buyer.node.core is None:
            return None
        asked = buyer.order()
        if asked is None:
            return None
        self.honesty.asked(asked)
        return asked.seed

    # --- trouble ---------------------------------------------------------------------------------------

    def stepped(self, node: SimNode, effects: Effects) -> None:
        """After some steps of a trade the power of a party goes, before the step is durable or soon after, for a
        moment, until the task has passed a deadline, or for longer than that.
        """
        for place in effects.places:
            row = place.row
            if row.kind is None or not self._ambushed or row.author != node.id or row.kind not in _ABSENCES:
                continue
            if self.rng.random() >= self.plan.absent * _ABSENCES[row.kind]:
                continue
            self.honesty.counts[f"away at {row.kind.value}"] += 1
            away_ms = self.rng.choice([500, 5_000, *self._deadlines(node, row)])
            soon_ms = self.rng.choice([self.rng.randint(1, 60), self.rng.randint(500, 2_500)])
            self.world.later(soon_ms, partial(self._go, node, away_ms, row.seed_id))

    def _deadlines(self, node: SimNode, row: HeldRow) -> list[int]:
        """In how many milliseconds the deadlines of a task pass: of bids, of the result, and of the forfeit."""
        seed = record_of(node, row.seed_id).definition
        if seed is None:
            return []
        if row.kind is FactKind.SEED:
            bids_ms = (seed.bid_deadline_ts + 1) * 1000 - node.now_ms
            return [bids_ms + 500, bids_ms + 500, bids_ms + seed.exec_deadline_ms]
        late_ms = seed.exec_deadline_ms + node.config.execution_grace_ms
        return [seed.exec_deadline_ms, late_ms + 5_000, late_ms + 5_000]

    def _go(self, node: SimNode, away_ms: int, seed_id: str = "") -> None:
        if node.core is not None and self._ambushed:
            if record_of(node, seed_id).definition is not None:
                self.honesty.away.add(seed_id)
            self.crashes += 1
            if self.rng.random() < 0.3:
                node.checkpoint()  # as an orderly end does
            node.crash(power=self.rng.random() < 0.7)
            self.world.later(max(away_ms, 100), partial(self._return, node))

    def _return(self, node: SimNode) -> None:
        if node.core is None:
            node.start()

    def _crash(self) -> None:
        self._go(self.rng.choice(self.nodes), self.rng.choice([500, 5_000, 20_000]))

    def _checkpoint(self) -> None:
        node = self.rng.choice(self.nodes)
        if node.core is not None:
            node.checkpoint(cut_after=self.rng.choice([0, 0, self.rng.randint(1, 12)]))
            self.world.later(3_000, partial(self._return, node))

    def _part(self) -> None:
        members = list(self.nodes)
        self.rng.shuffle(members)
        half = self.rng.randrange(1, len(members))
        self.world.partition(members[:half], members[half:])
        self.world.later(self.rng.randint(2_000, 15_000), self.world.partition)

    def _one_way(self) -> None:
        self.world.block([self.rng.choice(self.nodes)], self.rng.sample(self.nodes, 2))
        self.world.later(self.rng.randint(2_000, 15_000), self.world.partition)

    # --- calm ------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Nobody dies any more and the network is whole, but loses as much as before: all purchases end."""
        world = self.world
        self._ambushed = False
        world.partition()
        end_ms = world.now_ms + CALM_MS_MAX
        for node in self.nodes:
            self._return(node)
        for adversary in self.adversaries:
            adversary.budget = 0
        while unfinished := self.honesty.unfinished(self.nodes):
            if world.now_ms > end_ms:
                raise ViolationError(f"after {CALM_MS_MAX // 1000} s these have not ended: {unfinished}")
            world.run(_LOOK_MS, tick_ms=STEP_MS, step=self._quiet_step)

    def _quiet_step(self) -> None:
        self._look()
        for adversary in self.adversaries:
            adversary.act()

    def _heal(self) -> None:
        world = self.world
        world.weather = Weather()
        world.outsiders.clear()
        for node in self.nodes:
            node.disk_ms = (1, 8)

    # --- probes ----------------------------------------------------------------------------------------

    def _probe(self) -> None:
        """All buyers offer one more task: who has not settled gets no bids from workers that look at that, and every
        worker bids that has no reason not to.
        """
        world = self.world
        for adversary in self.adversaries:
            adversary.budget = 0
        shunned = {(node.name, other.id) for node in self.nodes for other in self.nodes if self._shuns(node, other.id)}
        seeds = [seed for buyer in self.buyers.values() if (seed := self._order(buyer)) is not None]
        chances: Counter[tuple[str, str]] = Counter()
        end_ms = world.now_ms + PROBE_MS
        while world.now_ms < end_ms:
            world.run(STEP_MS, tick_ms=STEP_MS, step=self._look)
            for node in self.nodes:
                for seed in seeds:
                    if self._could_bid(node, seed):
                        chances[node.name, seed.id] += 1
        for (name, seed_id), count in chances.items():
            if count * STEP_MS >= BID_MS:
                raise ViolationError(f"{name} does not bid for {seed_id}, for no reason, in {count * STEP_MS} ms")
        for seed in seeds:
            self._count_bids(seed, shunned)
        self._calm()

    def _could_bid(self, node: SimNode, seed: Seed) -> bool:
        """True if a worker has no reason not to bid for a seed at this moment, and has not."""
        shop, record = self.traders[node.name].shop, record_of(node, seed.id)
        if not shop.runs or seed.created_by == node.id or not is_biddable(record, node.now_ms // 1000):
            return False
        bid = any(fact.author == node.id for fact in record.bids)
        return not bid and not refusal(seed, self.honesty.situation(node, shop))

    def _shuns(self, node: SimNode, publisher: str) -> bool:
        """True if a worker wants publishers that settle, and this one does not."""
        least = self.traders[node.name].shop.policy.settled_min_micro
        dealings = dealings_of(node.running.replica.state.records, publisher, node.now_ms // 1000)
        return bool(least) and dealings.settled_in_time * 10**6 < least * dealings.due_results

    def _count_bids(self, seed: Seed, shunned: set[tuple[str, str]]) -> None:
        """Count the bids that a publisher gets, and those that it does not get because it has not settled."""
        counts = self.honesty.counts
        for node in self.nodes:
            bid = any(fact.author == node.id for fact in record_of(node, seed.id).bids)
            counts["probes with a bid"] += bid
            if (node.name, seed.created_by) in shunned and self._shuns(node, seed.created_by):
                counts["shunned publishers"] += 1
                if bid:
                    raise ViolationError(f"{node.name} bids for {seed.id} of {seed.created_by}, who does not settle")


NAMES: dict[str, str] = {f"m{number}": signer(f"m{number}").node_id for number in range(8)}


def simulate_market(
    seed: int,
    *,
    purchases: int = PURCHASES,
    workers: tuple[str, ...] | None = None,
    buyers: tuple[str, ...] | None = None,
    keep: Path | None = None,
) -> MarketOutcome:
    """Run one seed. Raises ViolationError, or whatever a node itself raises.

    With ``keep`` the data dirs of all nodes are saved there, as they are at the end or at the violation.
    """
    plan = draw(seed, NAMES, purchases=purchases, workers=workers, buyers=buyers)
    with tight_bounds(TIGHT) if plan.tight else nullcontext():
        market = Market(plan)
        try:
            return market.run()
        finally:
            if keep is not None:
                for node in market.nodes:
                    node.disk.save(keep / node.name)
