"""What a seed of the simulation means: how many nodes, which weather and clocks, and who lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random

from msgspec import Struct

from crabnet import limits
from crabnet.domain.state import Caps
from tests.sim.liars import KINDS
from tests.sim.world import Weather

NETWORKS = ("udp", "dht", "mixed")
"""Datagrams, libp2p, or some nodes of each kind with bridges between them."""
NODES = (*[3] * 8, *[4] * 5, *[5] * 2, 6, 7, 8, 9)
"""Sizes of networks: what a run costs grows faster than its nodes, and small ones show most mistakes."""
TIGHT: dict[str, int] = {
    "PARKED_ENVELOPES_MAX": 96,
    "PARKED_ENVELOPES_PER_FEED_MAX": 24,
    "PEERS_MAX": 24,
    "SYNC_MISSING_FEEDS_MAX": 64,
    "SYNC_WANT_ENTRIES_MAX": 16,
    "FORK_WANTS_MAX": 8,
    "NAMED_WANTS_MAX": 16,
    "SETTLED_AT_ONCE_MAX": 2,
    "STEPS_PER_AUTHOR_PER_SEED_MAX": 10,
    "STARTS_PER_AUTHOR_PER_STEP_MAX": 4,
    "FRAME_BYTES_TARGET": 3_000,
}
"""Bounds that a small run reaches, so that what happens then is simulated, too."""
TIGHT_CAPS = Caps(open_seeds_max=25, bids_per_seed_max=2)


@contextmanager
def tight_bounds(bounds: Mapping[str, int] = TIGHT) -> Iterator[None]:
    """For a while the bounds of ``limits`` are these."""
    before = {name: getattr(limits, name) for name in bounds}
    for name, value in bounds.items():
        setattr(limits, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(limits, name, value)


class Plan(Struct, frozen=True, kw_only=True):
    """What a seed means. Equal plans give equal runs."""

    seed: int
    nodes: int
    operations: int
    weather: Weather
    skews_ms: tuple[int, ...]
    slow: tuple[bool, ...]
    liars: tuple[str, ...]
    withholder: bool
    trouble: float
    tight: bool
    network: str = "udp"

    def __str__(self) -> str:
        skewed = sum(abs(skew) > 1_500 for skew in self.skews_ms)
        liars = ",".join((*self.liars, *(("withholder",) if self.withholder else ()))) or "none"
        loss, duplicate, (_, delay_ms) = self.weather
        return (
            f"{self.network}, {self.nodes} nodes, {self.operations} operations, loss {loss:.0%}, doubles"
            f" {duplicate:.0%}, delay up to {delay_ms} ms, {skewed} skewed clocks, {sum(self.slow)} slow"
            f" disks,{' tight bounds,' * self.tight} liars: {liars}"
        )


def draw(
    seed: int,
    *,
    nodes: int | None = None,
    operations: int = 2_000,
    liars: tuple[str, ...] | None = None,
    network: str = "udp",
) -> Plan:
    """The plan of a seed in a network; ``nodes`` and ``liars`` instead of those that it would have."""
    rng = Random(f"plan {seed}")
    drawn = rng.choice(NODES)
    count = drawn if nodes is None else nodes
    badly = rng.random() < 0.35
    drawn_liars = tuple(rng.sample(sorted(KINDS), rng.choice([0, 1, 1, 2, 2, 3, 4, 6])))
    return Plan(
        seed=seed,
        nodes=count,
        operations=operations,
        weather=Weather(
            rng.choice([0.0, 0.02, 0.1, 0.2, 0.3]),
            rng.choice([0.0, 0.05, 0.3]),
            (1, rng.choice([20, 300, 2_000])),
        ),
        skews_ms=tuple(
            rng.randint(-600_000, 600_000) if badly and rng.random() < 0.3 else rng.randint(-1_500, 1_500)
            for _ in range(count)
        ),
        slow=tuple(rng.random() < 0.2 for _ in range(count)),
        liars=drawn_liars if liars is None else liars,
        withholder=rng.random() < 0.3,
        trouble=rng.choice([0.2, 1.0, 1.0, 2.0]),
        tight=rng.random() < 0.3,
        network=network,
    )
