"""What a random seed means for a market: who buys and sells, by which policies, who lies, and in which weather."""

from __future__ import annotations

from random import Random
from typing import Final

from msgspec import Struct

from crabnet.market.work import MICRO, WorkPolicy
from tests.sim.trade.buyers import BUYERS
from tests.sim.trade.tasks import WORDS
from tests.sim.trade.trader import Shop
from tests.sim.trade.workers import HONEST, WORKERS
from tests.sim.world import START_MS, Weather

PURCHASES: Final = 24
NODES: Final = (4, 4, 5, 5, 6, 7)
OUTSIDERS: Final = ("creator", "worker", "spammer", "cheat", "forger", "replayer")
"""The adversaries without a core (``tests.sim.liars``) that disturb a market: forks, bids without work, forgeries."""
TIGHT: Final = {
    "TASKS_DECLINED_MAX": 12,
    "DECLINED_NEWS_MAX": 4,
    "DECLINES_PER_SEED_MAX": 2,
    "DECLINES_HEARD_MAX": 6,
    "DECLINES_TOLD_MAX": 64,
    "DECLINES_WAITING_MAX": 8,
    "DECLINE_AUTHORS_MAX": 4,
    "DECLINES_BURST": 5,
    "DECLINES_PER_S": 1,
    "PUBLISHERS_DISTRUSTED_MAX": 2,
    "DISTRUSTED_SEEDS_MAX": 4,
    "TURN_MOVES_MAX": 2,
}


class Member(Struct, frozen=True, kw_only=True):
    """One node of a market."""

    buyer: str
    """The kind of its operator as a buyer (``buyers.BUYERS``), "" for one that buys nothing."""
    shop: Shop
    by_settings: bool
    """Whether it buys by the settings ``auto_award`` and ``auto_settle`` besides by terms."""
    skew_ms: int
    slow: bool


class MarketPlan(Struct, frozen=True, kw_only=True):
    """What a seed means. Equal plans give equal runs."""

    seed: int
    members: tuple[Member, ...]
    purchases: int
    weather: Weather
    trouble: float
    absent: float
    """The share of purchases after one of whose steps a party is off for long."""
    outsiders: tuple[str, ...]
    tight: bool
    network: str

    def __str__(self) -> str:
        loss, duplicate, (_, delay_ms) = self.weather
        buyers = ",".join(member.buyer or "-" for member in self.members)
        workers = ",".join(member.shop.worker if member.shop.runs else "-" for member in self.members)
        return (
            f"{self.network}, {len(self.members)} nodes, {self.purchases} purchases, loss {loss:.0%}, doubles"
            f" {duplicate:.0%}, delay up to {delay_ms} ms,{' tight bounds,' * self.tight} buyers: {buyers}; workers:"
            f" {workers}; outsiders: {','.join(self.outsiders) or 'none'}"
        )


def _policy(rng: Random, ids: list[str]) -> WorkPolicy:
    """The conditions of a worker. Each is rare, so that somebody bids for most tasks."""
    start = START_MS // 60_000 % (7 * 24 * 60)

    def rarely(value: int) -> int:
        return value if rng.random() < 0.15 else 0

    spans: tuple[tuple[int, int], ...] = ()
    if rng.random() < 0.2:
        first = start + rng.randint(0, 1)
        spans = ((first, first + rng.randint(1, 3)),)
    return WorkPolicy(
        price=rng.randint(0, 9),
        price_per_s_micro=rarely(MICRO // 3),
        price_per_mib_micro=rarely(MICRO // 100),
        price_min=rarely(2),
        spans=spans,
        schedule="now and then",
        only=frozenset(rng.sample(ids, 2)) if rng.random() < 0.06 else frozenset(),
        never=frozenset(rng.sample(ids, 1)) if rng.random() < 0.1 else frozenset(),
        settled_min_micro=rng.choice([0, MICRO // 2, 9 * MICRO // 10]),
        unsettled_max=rng.choice([0, 0, 3]),
        load_max_percent=rarely(100),
        battery_min_percent=rarely(20),
        timeout_max_ms=rarely(3_000),
        runs_max=rng.randint(1, 3),
        commitments_max=rng.choice([2, 8, 68]),
    )


def draw(
    seed: int,
    ids_of: dict[str, str],
    *,
    purchases: int = PURCHASES,
    workers: tuple[str, ...] | None = None,
    buyers: tuple[str, ...] | None = None,
) -> MarketPlan:
    """The plan of a seed. ``ids_of`` are the node ids by name of as many nodes as there may be.

    ``workers`` and ``buyers`` are kinds instead of those that it would have, for all but the first two nodes.
    """
    rng = Random(f"market {seed}")
    count = rng.choice(NODES)
    ids = list(ids_of.values())[:count]
    liars = sorted(set(WORKERS) - {HONEST})
    members = []
    for number in range(count):
        honest = number < 2 or rng.random() < 0.4
        buyer = "honest" if number in {0, 1} else rng.choice(["", "honest", *sorted(set(BUYERS) - {HONEST})])
        allows = frozenset(WORDS) if rng.random() < 0.6 else frozenset(rng.sample(WORDS, 4))
        pause_ms = rng.randint(0, 60_000)
        worker = HONEST if honest else rng.choice(liars)
        if number > 1:
            worker = worker if workers is None else workers[number % len(workers)]
            buyer = buyer if buyers is None else buyers[number % len(buyers)]
        shop = Shop(
            worker=worker,
            policy=_policy(rng, ids),
            allows=allows,
            memory_bytes=rng.choice([64, 256]) * 1024 * 1024,
            paused_ms=(pause_ms, pause_ms + 20_000) if rng.random() < 0.1 else (0, 0),
            runs=number != 0 or rng.random() < 0.5,
        )
        members.append(
            Member(
                buyer=buyer,
                shop=shop,
                by_settings=rng.random() < 0.3,
                skew_ms=rng.randint(-1_500, 1_500),
                slow=rng.random() < 0.15,
            )
        )
    return MarketPlan(
        seed=seed,
        members=tuple(members),
        purchases=purchases,
        weather=Weather(
            rng.choice([0.0, 0.1, 0.3, 0.3]), rng.choice([0.0, 0.05, 0.3]), (1, rng.choice([20, 300, 1_000]))
        ),
        trouble=rng.choice([0.0, 0.3, 1.0]),
        absent=rng.choice([0.0, 0.2, 0.4]),
        outsiders=tuple(rng.sample(OUTSIDERS, rng.choice([0, 0, 1, 2]))),
        tight=rng.random() < 0.25,
        network=rng.choice(["udp", "udp", "udp", "dht"]),
    )
