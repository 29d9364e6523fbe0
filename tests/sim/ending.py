"""The end of a run: once nothing keeps envelopes back, the honest nodes agree, and nothing is missing or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from crabnet.core.replica.replica import Replica
from crabnet.domain.record import EMPTY
from tests.sim.checks import Safety, ViolationError, compare_with_naive_rules, compare_with_refold
from tests.sim.node import SimNode
from tests.sim.world import World

STEP_MS = 100
ROUNDS_MAX = 75
"""Sync intervals after which all honest nodes must agree, once nothing keeps envelopes back."""


def _agreed(nodes: Sequence[SimNode]) -> bool:
    """True if all honest nodes hold the same; the hashes are compared when the heads are equal."""
    replicas = [node.running.replica for node in nodes]
    heads = _heads(replicas[0])
    if any(replica.settling.pending or _heads(replica) != heads for replica in replicas):
        return False
    return len({replica.state_hash() for replica in replicas}) == 1


def rounds_until_agreed(world: World, nodes: Sequence[SimNode]) -> int:
    """How many sync intervals it takes until all honest nodes agree. Raises ViolationError if they do not."""
    rounds = 0
    while not _agreed(nodes):
        if rounds >= ROUNDS_MAX:
            raise ViolationError(f"after {ROUNDS_MAX} sync rounds the nodes disagree:\n{describe_all(nodes)}")
        rounds += 1
        world.run(1_000, tick_ms=STEP_MS)
    return rounds


def judge(nodes: Sequence[SimNode], safety: Safety) -> None:
    """Nothing acknowledged is missing anywhere, all is as the rules say, and a restart changes nothing."""
    for node in nodes:
        node.sync()
        safety.bounded(node)
        for author, seq, envelope_id in node.acknowledged:
            for other in nodes:
                if other.running.replica.feeds.id_at(author, seq) != envelope_id:
                    raise ViolationError(f"{other.name} lacks {envelope_id} ({seq}), which {node.name} acknowledged")
    for node in nodes:
        safety.same_heads_same_state(node)
        compare_with_naive_rules(node)
        records = node.running.replica.state.records
        for seed_id in {row.seed_id: None for row in node.history.rows() if row.seed_id}:
            compare_with_refold(node, seed_id, records.get(seed_id, EMPTY))
    for node in nodes:
        before = node.running.replica
        node.sync()
        node.crash()
        node.recover()
        after = node.running.replica
        if after.state_hash() != before.state_hash() or _heads(after) != _heads(before):
            raise ViolationError(f"{node.name} is another after a restart")


def _heads(replica: Replica) -> list[tuple[str, int, str, int]]:
    """The version vector, with the ends of feeds."""
    return sorted((feed.author, feed.head_seq, feed.head_id, feed.end) for feed in replica.feeds.all())


def describe_all(nodes: Sequence[SimNode]) -> str:
    """Nodes, a line each."""
    return "\n".join(describe(node) for node in nodes)


def describe(node: SimNode) -> str:
    """A node in one line."""
    replica = node.running.replica
    feeds = " ".join(
        f"{author[-4:]}:{seq}{f'<{end}' if end else ''}-{head_id[:4]}" for author, seq, head_id, end in _heads(replica)
    )
    missing = len(node.running.neighbours.planner)
    waits = f"parked {len(replica.parking)} missing {missing} settling {replica.settling.pending}"
    return f"  {node.name} {replica.state_hash()[:8]} {waits} feeds {feeds}"
