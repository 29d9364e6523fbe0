"""Facts that sleep (ADR 22): whether there are any, whose they are, and what they may have waited for.

What an author says about one thing is judged in the order of its feed. So while an earlier fact may sleep, the later
ones sleep, too: authors of whom anything has slept are *dozing*, and what they say waits on disk wherever that of
others would wait in memory, or while sleepers are being woken.
"""

from __future__ import annotations

from collections.abc import Iterable

from crabnet.domain.lifecycle import EMPTY
from crabnet.domain.model import Fact, FactKind, Run, TaskResult, Verdict
from crabnet.domain.state import SeedEvent, State


class Dormancy:
    """``asleep`` counts facts that were left to sleep, ever; ``restless`` is what is to be looked for among them.

    ``moves`` counts what was roused and what fell asleep; ``restless`` knows the last move of each.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.asleep = 0
        self.moves = 0
        self.dozing: set[str] = set()
        self.restless: dict[str, int] = {}

    def fell_asleep(self, author: str, parent: str) -> None:
        """A fact of the author waits for ``parent`` outside memory, unless that is empty."""
        if not parent:
            return
        self.asleep += 1
        self.moves += 1
        self.dozing.add(author)
        if parent in self.restless:
            self.restless[parent] = self.moves

    def calmed(self, parent: str, since: int) -> None:
        """All that slept for ``parent`` when ``moves`` was ``since`` was judged: that is all, unless more came."""
        if self.restless.get(parent, 0) <= since:
            self.restless.pop(parent, None)

    def holds_back(self, fact: Fact, woken_by: str = "") -> str:
        """What a fact must sleep for, since earlier ones of its author may, "" if it may be judged."""
        if fact.kind is FactKind.SEED or not fact.signed or fact.author not in self.dozing:
            return ""
        seed_id = fact.seed_id
        if self._state.records.get(seed_id, EMPTY).seed is None or (seed_id in self.restless and seed_id != woken_by):
            return seed_id
        claim_id = fact.body.claim_id if isinstance(fact.body, Run | TaskResult) else None
        return claim_id if claim_id is not None and claim_id in self.restless and claim_id != woken_by else ""

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
        self.moves += 1
        self.restless.update(dict.fromkeys(roused, self.moves))
        return tuple(roused)
