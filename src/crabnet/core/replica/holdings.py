"""The content of a replica: seeds, feeds, the window of seen messages, and access to data on disk."""

from __future__ import annotations

from typing import Final

from crabnet.core.replica.applied import combined_hash
from crabnet.core.replica.archived import ArchivedSeeds
from crabnet.core.replica.held import Held, MemoryHeld
from crabnet.core.replica.purchases import Purchases
from crabnet.core.replica.rebuilding import Rebuilder
from crabnet.core.replica.requests import Requests
from crabnet.domain.model import Fact, FactKind, Seed
from crabnet.domain.state import Caps, Outcome, State
from crabnet.errors import Reason, RefusedError
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.feed import Feeds
from crabnet.protocol.replay import SeenWindow

_CLOSING: Final = frozenset({FactKind.SETTLE, FactKind.CLOSE})
"""The last facts that the creator of a seed states about it. A forfeit is not last: another claim may follow it."""


class Holdings:
    """The state on which the nodes of one namespace come to agree. ``arrivals`` counts unsigned facts."""

    def __init__(self, namespace: str, caps: Caps, *, seen_ttl_s: int, seen_capacity: int, requests: Requests) -> None:
        self.namespace = namespace
        self.state = State(caps)
        self.feeds = Feeds()
        self.seen = SeenWindow(ttl_s=seen_ttl_s, capacity=seen_capacity)
        self.archived = ArchivedSeeds(self.state)
        self.rebuilder = Rebuilder(self.feeds, MemoryHeld())
        self.held = self.rebuilder.held
        self.arrivals = 0
        self.requests = requests
        self.purchases = Purchases()
        self.written_until_s = 0

    @property
    def held(self) -> Held:
        """Access to held envelopes that are not in memory."""
        return self.rebuilder.held

    @held.setter
    def held(self, held: Held) -> None:
        self.rebuilder.held = held
        self.feeds.lookup = held.id_at

    def state_hash(self) -> str:
        """Hex SHA-256 over seeds and feeds. It is equal in two nodes if and only if they hold the same."""
        return combined_hash(self.namespace, self.state.digest(), self.feeds.digest())

    def check_open(self, node_id: str) -> None:
        """Raise RefusedError if this node's own feed has ended."""
        end = self.feeds.get(node_id).end
        if end:
            raise RefusedError(
                f"the feed of {node_id} has ended, because its key signed two envelopes for seq {end};"
                " this id cannot sign anything more; make a new one with `crabnet id renew`",
                Reason.FEED_ENDED,
            )

    def definition(self, seed_id: str) -> Seed | None:
        """The definition of a seed, or None if it is not known."""
        record = self.state.records.get(seed_id)
        return None if record is None else record.definition

    def enter(self, meta: EnvelopeMeta, fact: Fact | None, outcome: Outcome) -> None:
        """Append an envelope to its feed, and update the open seeds of its author."""
        open_seeds = self.feeds.advance(meta.from_, meta.seq, meta.id).open_seeds
        if fact is None:
            return
        if fact.kind is FactKind.SEED and outcome is Outcome.ACCEPTED:
            open_seeds[fact.seed_id] = None
        elif fact.kind in _CLOSING:
            open_seeds.pop(fact.seed_id, None)
