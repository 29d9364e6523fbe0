"""One run of the simulation: a plan, trouble, peace, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from crabnet.core.config import CoreConfig
from crabnet.node.config import core_config
from crabnet.settings import Settings
from tests.sim.adversaries import Withholder
from tests.sim.adversary import Adversary
from tests.sim.checks import Safety, ViolationError
from tests.sim.ending import STEP_MS, describe_all, judge, rounds_until_agreed
from tests.sim.liars import KINDS
from tests.sim.market import Job, Market
from tests.sim.node import SimNode
from tests.sim.p2p import P2p
from tests.sim.plan import TIGHT_CAPS, Plan, draw, tight_bounds
from tests.sim.world import Weather, World

TROUBLE_MS_MAX = 400_000
"""A run whose operators cannot get their work done in this time ends its trouble anyway."""
DUSK_MS = 65_000
"""Until the last deadline of a seed has passed."""
JOB_MS_MAX = 90_000
"""Until a job of two honest nodes is done, whatever liars do meanwhile."""
QUIET_MS = 5_000
"""Nodes that have agreed go on for this long."""
LIARS_SHARE = 0.3
"""Of the operations of a run, the part that liars have, if there are any; the rest are commands of operators."""
SKEW_LIMIT_MS = 300_000
"""Envelopes further ahead of a node's clock are refused: the default of ``future_skew_s``."""


class Outcome(NamedTuple):
    """What a run came to. ``rounds`` is how many sync intervals it took to agree after all was well."""

    plan: Plan
    operations: int
    rounds: int
    state_hash: str
    digest: str
    envelopes: int
    virtual_ms: int
    datagrams: int
    bytes: int
    crashes: int
    changes: int


def default_config() -> CoreConfig:
    """A node as it is by default, only that a forfeit is not long in coming."""
    return replace(core_config(Settings()), execution_grace_ms=2_000)


class Simulation:
    """Runs a plan."""

    def __init__(self, plan: Plan, *, config: CoreConfig | None = None) -> None:
        self.plan = plan
        self.world = world = World(plan.seed, forks=True)
        self.rng = world.rng
        config = default_config() if config is None else config
        if plan.tight:
            config = replace(config, caps=TIGHT_CAPS)
        self.honest = [world.add(f"n{number}", config, skew_ms=skew) for number, skew in enumerate(plan.skews_ms)]
        for node, slow in zip(self.honest, plan.slow, strict=True):
            node.keep_notices = False
            node.disk_ms = (20, 800) if slow else (1, 8)
        self.market = Market(world)
        self.safety = Safety(frozenset(node.id for node in self.honest), self._is_forker)
        self.adversaries: list[Adversary] = []
        lies = int(plan.operations * LIARS_SHARE) // max(1, len(plan.liars))
        self._wishes = plan.operations - lies * len(plan.liars)
        for number, kind in enumerate(plan.liars):
            adversary = KINDS[kind](world, f"liar{number}", budget=lies)
            self.adversaries.append(adversary)
        self.withholder = self._add_withholder(config) if plan.withholder else None
        world.observers += [self.safety, self.market]
        self.crashes = 0
        self._night = False
        self.job_ms = 0
        self._wear(plan.network)
        self._connect()

    def _is_forker(self, author: str) -> bool:
        return any(author in adversary.forkers for adversary in self.adversaries)

    def _add_withholder(self, config: CoreConfig) -> SimNode:
        node = Withholder(self.world, "withholder", config)
        node.keep_notices = False
        self.world.nodes[node.address] = node
        return node

    def _wear(self, network: str) -> None:
        """Put everybody into the network. Where it is mixed, the first node and a third of the others are bridges, a
        third are in libp2p only and a third have datagrams only. Adversaries lie over libp2p where they can.
        """
        if network == "udp":
            return
        world = self.world
        world.p2p = p2p = P2p(world, finds_peers=self.rng.random() < 0.5)
        mixed = network == "mixed"
        inside = [node for number, node in enumerate(world.nodes.values()) if not mixed or number % 3 < 2]
        for number, node in enumerate(inside):
            node.with_udp = mixed and number % 2 == 0
            p2p.add(node, [inside[0], self.rng.choice(inside)])
        for adversary in self.adversaries:
            p2p.add(adversary, list(inside))

    def _connect(self) -> None:
        """Everybody knows the first node and one more by configuration; the rest they learn."""
        everybody = list(self.world.nodes.values())
        for number, node in enumerate(everybody):
            known = {everybody[0].address, self.rng.choice(everybody).address} - {node.address}
            node.targets = sorted(known) if number and node.with_udp else []
            node.start()

    # --- trouble ---------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Raises ViolationError for what must not be."""
        self.world.weather = self.plan.weather
        end_ms = self.world.now_ms + TROUBLE_MS_MAX
        while self.market.done < self._wishes and self.world.now_ms < end_ms:
            self.world.run(STEP_MS, tick_ms=STEP_MS, step=self._step)
        self._work()
        self._dusk()
        self._heal()
        rounds = self._agree()
        judge(self.honest, self.safety)
        world = self.world
        first = self.honest[0].running.replica
        return Outcome(
            plan=self.plan,
            operations=self.market.done + sum(adversary.spent for adversary in self.adversaries),
            rounds=rounds,
            state_hash=first.state_hash(),
            digest=world.digest(),
            envelopes=sum(seq for seq, _ in first.feeds.heads().values()),
            virtual_ms=world.virtual_ms,
            datagrams=world.traffic.datagrams,
            bytes=world.traffic.bytes,
            crashes=self.crashes,
            changes=self.safety.changes,
        )

    def _step(self) -> None:
        for _ in range(4):
            if self.market.done < self._wishes:
                self.market.turn(self.rng.choice(self.honest))
        for adversary in self.adversaries:
            if self.rng.random() < 0.5:
                adversary.act()
        if self.rng.random() < 0.06 * self.plan.trouble:
            self.rng.choice(self._troubles())()

    def _troubles(self) -> list[Callable[[], None]]:
        return [self._crash, self._crash, self._restart, self._restart, self._restart, self._checkpoint,
                self._part, self._one_way, self._join, *([self._kill] if self.world.p2p else [])]  # fmt: skip

    def _kill(self) -> None:
        """The libp2p process of a node dies, and is started again."""
        p2p = self.world.p2p
        node = self.rng.choice(self.honest)
        if p2p is not None and node.p2p is p2p and node.core is not None:
            p2p.kill(node)

    def _crash(self) -> None:
        node = self.rng.choice(self.honest)
        if node.core is not None:
            self.crashes += 1
            node.crash(power=self.rng.random() < 0.7)

    def _restart(self) -> None:
        down = [node for node in self.honest if node.core is None]
        if down:
            self.rng.choice(down).start()

    def _checkpoint(self) -> None:
        node = self.rng.choice(self.honest)
        if node.core is not None:
            node.checkpoint(cut_after=self.rng.choice([0, 0, self.rng.randint(1, 12)]))
            self.crashes += node.core is None

    def _part(self) -> None:
        """A split that does not last, or else nothing would ever be settled."""
        self._split()
        self.world.later(self.rng.randint(2_000, 20_000), self._join)

    def _split(self) -> None:
        members = list(self.world.nodes.values())
        self.rng.shuffle(members)
        half = self.rng.randrange(1, len(members))
        self.world.partition(members[:half], members[half:])

    def _one_way(self) -> None:
        members = list(self.world.nodes.values())
        self.world.block([self.rng.choice(members)], self.rng.sample(members, self.rng.randint(1, len(members))))
        self.world.later(self.rng.randint(2_000, 20_000), self._join)

    def _join(self) -> None:
        if not self._night:
            self.world.partition()

    def _work(self) -> None:
        """Honest work goes on among liars: two nodes that know each other bring a whole job to its end.

        Newcomers have to share what liars with ever new keys leave of their budgets, and may wait for longer. What
        rests on the word of somebody whose clock is fast waits until its time has come.
        """
        world = self.world
        if any(abs(node.skew_ms) > SKEW_LIMIT_MS // 2 for node in self.honest):
            return
        up = [node for node in self.honest if node.core is not None]
        pairs = [
            (one, other)
            for one in up
            for other in up
            if one is not other and one.running.knows(other.id) and other.running.knows(one.id)
        ]
        if not pairs:
            return
        world.partition()
        world.weather = Weather(0.02, 0.02, (1, 200))
        for node in self.honest:
            if node.core is None:
                node.start()
        job = Job(*self.rng.choice(pairs))
        begun_ms = world.now_ms
        while not job.done:
            if world.now_ms > begun_ms + JOB_MS_MAX:
                raise ViolationError(f"after {JOB_MS_MAX / 1000:.0f} s a job is not done: {job}\n{self.describe()}")
            for adversary in self.adversaries:
                adversary.budget += 1
            world.run(1_000, tick_ms=STEP_MS, step=self._job_step(job))
        self.job_ms = world.now_ms - begun_ms
        world.weather = self.plan.weather

    def _job_step(self, job: Job) -> Callable[[], None]:
        def step() -> None:
            job.go_on()
            for adversary in self.adversaries:
                if self.rng.random() < 0.5:
                    adversary.act()

        return step

    def _dusk(self) -> None:
        """The operators rest, the trouble lasts: a split, a node that is down, until the last deadline has passed."""
        self._night = True
        self._split()
        self._crash()
        self.world.run(DUSK_MS, tick_ms=STEP_MS)

    # --- peace -----------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """The network is whole, disks are quick, clocks are right, everybody is up, and nobody lies any more."""
        world = self.world
        world.partition()
        world.weather = Weather()
        world.outsiders.clear()
        for node in self.honest:
            node.disk_ms = (1, 8)
            if abs(node.skew_ms) > 1_500 and node.core is not None:
                node.sync()
                node.crash()
            node.skew_ms = 0
            if node.core is None:
                node.start()

    def _agree(self) -> int:
        """How many sync intervals it takes until all honest nodes agree; afterwards they must still do.

        What a fast clock dated further ahead than nodes accept is waited for first.
        """
        world = self.world
        ahead_ms = max(max(self.plan.skews_ms) - SKEW_LIMIT_MS, 0)
        if ahead_ms:
            world.run(ahead_ms, tick_ms=STEP_MS)
        rounds = rounds_until_agreed(world, self.honest)
        world.run(QUIET_MS, tick_ms=STEP_MS)
        rounds_until_agreed(world, self.honest)
        return rounds

    def describe(self) -> str:
        """All honest nodes, a line each."""
        return describe_all(self.honest)


def simulate(
    seed: int,
    *,
    nodes: int | None = None,
    operations: int = 2_000,
    liars: tuple[str, ...] | None = None,
    network: str = "udp",
    keep: Path | None = None,
) -> Outcome:
    """Run one seed. Raises ViolationError, or whatever the node itself raises.

    With ``keep`` the data dirs of all honest nodes are saved there, as they are at the end or at the violation.
    """
    plan = draw(seed, nodes=nodes, operations=operations, liars=liars, network=network)
    with tight_bounds() if plan.tight else nullcontext():
        simulation = Simulation(plan)
        try:
            return simulation.run()
        finally:
            if keep is not None:
                for node in simulation.honest:
                    node.disk.save(keep / node.name)
