"""Facts that sleep for want of room (ADR 22): whether there are any, and what they may have waited for."""

from __future__ import annotations

from collections.abc import Iterable

from crabnet.domain.lifecycle import EMPTY
from crabnet.domain.model import FactKind, Verdict
from crabnet.domain.state import SeedEvent, State


class Dormancy:
    """``asleep`` counts facts that were left to sleep, ever; ``restless`` is what is to be looked for among them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.asleep = 0
        self.restless: dict[str, None] = {}

    def fell_asleep(self, parent: str) -> None:
        """A fact waits for ``parent`` outside memory, unless that is empty."""
        self.asleep += bool(parent)

    def rouse(self, events: Iterable[SeedEvent]) -> tuple[str, ...]:
        """The seeds and claims that count since these events were applied, and for which facts may have slept."""
        if not self.asleep:
            return ()
        roused: list[str] = []
        for event in events:
            if event.fact is not None and event.fact.kind is FactKind.SEED:
                roused.append(event.seed_id)
            counting = {key for key, judgement in event.judgements if judgement.verdict is Verdict.EFFECTIVE}
            record = self._state.records.get(event.seed_id, EMPTY)
            roused += [
                entry.fact.key
                for entry in record.others
                if entry.fact.kind is FactKind.CLAIM and entry.fact.key in counting
            ]
        self.restless.update(dict.fromkeys(roused))
        return tuple(roused)
