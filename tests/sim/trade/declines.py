"""What workers say about tasks for which they do not bid is bounded: how often, to how many, and what is remembered."""

from __future__ import annotations

import json
from collections import Counter

from crabnet import limits
from crabnet.core.effects import Send
from crabnet.protocol.envelope import Kind
from tests.sim.checks import ViolationError
from tests.sim.trade.idle import Idle
from tests.sim.world import SimNode


class Declines(Idle):
    """Watches the declines of all nodes. ``counts`` is what was seen."""

    def __init__(self, counts: Counter[str]) -> None:
        self.counts = counts
        self._told: dict[tuple[str, int, str, str], set[str | None]] = {}
        self._times: dict[str, list[int]] = {}

    def sent(self, node: SimNode, send: Send) -> None:
        """A worker says each reason for each task once in a life, and no more than its rate allows."""
        if send.kind != Kind.BID_DECLINED:
            return
        self.counts["declines"] += 1
        if not send.relayed:
            said = json.loads(send.data)["payload"]
            told = self._told.setdefault((node.name, node.lives, said["seed_id"], said["reason"]), set())
            if send.to in told or len(told) >= limits.DECLINE_FANOUT:
                raise ViolationError(f"{node.name} declines {said['seed_id']} for {said['reason']} again, to {send.to}")
            told.add(send.to)
        times = self._times.setdefault(f"{node.name} {node.lives} {send.relayed}", [])
        times.append(node.world.now_ms)
        per_s = limits.DECLINES_PASSED_ON_PER_S if send.relayed else limits.DECLINES_PER_S * limits.DECLINE_FANOUT
        burst = per_s if send.relayed else limits.DECLINES_BURST * limits.DECLINE_FANOUT
        late = [each for each in times if each > node.world.now_ms - 1_000]
        if len(late) > per_s + burst:
            raise ViolationError(f"{node.name} sends {len(late)} declines in a second")

    def bounded(self, node: SimNode) -> None:
        """All tables of policies are within their bounds."""
        core = node.core
        if core is None:
            return
        parts = core.trading
        for name, held, most in (
            ("declined", len(parts.declined()), limits.TASKS_DECLINED_MAX),
            *((f"declines of {seed_id}", len(core.declining.of(seed_id)), limits.DECLINES_PER_SEED_MAX)
              for seed_id in core.replica.purchases.terms if seed_id in core.replica.state.records),
        ):  # fmt: skip
            if held > most:
                raise ViolationError(f"{node.name}: {name} holds {held}, at most {most}")
