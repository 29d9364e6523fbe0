"""What a replica holds: seeds, feeds, the window of messages seen, and what lies on disk."""

from __future__ import annotations

from typing import Final

from crabnet.core.replica.applied import combined_hash
from crabnet.core.replica.archived import ArchivedSeeds
from crabnet.core.replica.held import Held, MemoryHeld
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.domain.model import Fact, FactKind, Seed
from crabnet.domain.state import Caps, Outcome, State
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.feed import Feeds
from crabnet.protocol.replay import SeenWindow

_CLOSING: Final = frozenset({FactKind.SETTLE, FactKind.CLOSE})
"""What the creator of a seed says last about it. A forfeit may be followed by another claim."""


class Holdings:
    """All that nodes of one namespace come to agree on. ``arrivals`` counts what came unsigned."""

    def __init__(self, namespace: str, caps: Caps, *, seen_ttl_s: int, seen_capacity: int) -> None:
        self.namespace = namespace
        self.state = State(caps)
        self.feeds = Feeds()
        self.seen = SeenWindow(ttl_s=seen_ttl_s, capacity=seen_capacity)
        self.archived = ArchivedSeeds(self.state)
        self.rebuilder = Rebuilder(self.feeds, MemoryHeld())
        self.held = self.rebuilder.held
        self.arrivals = 0
        self.written_until_s = 0

    @property
    def held(self) -> Held:
        """What is held but not in memory."""
        return self.rebuilder.held

    @held.setter
    def held(self, held: Held) -> None:
        self.rebuilder.held = held
        self.feeds.lookup = held.id_at

    def state_hash(self) -> str:
        """Hex SHA-256 over seeds and feeds: equal in two nodes if and only if they hold the same."""
        return combined_hash(self.namespace, self.state.digest(), self.feeds.digest())

    def check_open(self, node_id: str) -> None:
        """Raises RefusedError if this node's own feed has ended."""
        end = self.feeds.get(node_id).end
        if end:
            raise RefusedError(
                f"the feed of {node_id} has ended: its key has signed two envelopes for seq {end};"
                " nothing more can be said under this id; `crabnet id renew` makes a new one",
                Reason.FEED_ENDED,
            )

    def definition(self, seed_id: str) -> Seed | None:
        """The definition of a seed, if it is known."""
        record = self.state.records.get(seed_id)
        return None if record is None else record.definition

    def enter(self, meta: EnvelopeMeta, fact: Fact | None, outcome: Outcome) -> None:
        """An envelope takes its place; what its author says of its own seeds decides how many of them are open."""
        open_seeds = self.feeds.advance(meta.from_, meta.seq, meta.id).open_seeds
        if fact is None:
            return
        if fact.kind is FactKind.SEED and outcome is Outcome.ACCEPTED:
            open_seeds[fact.seed_id] = None
        elif fact.kind in _CLOSING:
            open_seeds.pop(fact.seed_id, None)
