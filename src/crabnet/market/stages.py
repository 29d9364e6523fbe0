"""The stages of a task, and what an explanation of them is made from. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from crabnet.domain.model import FINAL, Bid, Claim, Seed, SeedStatus
from crabnet.domain.record import Record, counting_bids
from crabnet.domain.wording import node
from crabnet.errors import Reason
from crabnet.market.heard import HeardDecline
from crabnet.market.policies import Declined, Terms

NOTE_CHARS: Final = 200
"""Characters of a stranger's text in a sentence."""
THIS: Final = "this node"


class StageName(StrEnum):
    """The stages of a task, in their order."""

    PUBLICATION = "publication"
    BIDS = "bids"
    AWARD = "award"
    START = "start"
    RESULT = "result"
    SETTLEMENT = "settlement"
    ACKNOWLEDGEMENT = "acknowledgement"


class StageState(StrEnum):
    """Where a stage is."""

    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"
    NOT_REACHED = "not_reached"


class Stage(Struct, frozen=True, kw_only=True):
    """One stage of a task. Times are in seconds since the epoch.

    ``text`` says what has happened, or what is waited for. ``waits_for`` is the node that has to do something, None if
    any node may, or nobody has to. ``change`` says what would change it.
    """

    name: StageName
    state: StageState
    text: str = ""
    waits_for: str | None = None
    since_s: int | None = None
    until_s: int | None = None
    reason: Reason | None = None
    change: str = ""


class Here(Struct, frozen=True, kw_only=True):
    """What the node that explains knows beside the facts. The defaults are those of a data dir without a running node.

    ``peers`` are the neighbours at the moment, ``heard_by`` those to which the task was sent. None: not known.
    ``unsigned`` says why the node signs nothing at the moment, and ``unsigned_reason`` names it.
    """

    node_id: str
    now_ms: int
    runs: bool = False
    """A node runs and takes part."""
    peers: int | None = None
    heard_by: int | None = None
    declines: tuple[HeardDecline, ...] = ()
    equivocators: frozenset[str] = frozenset()
    """Parties of the task that have forked their feeds."""
    terms: Terms | None = None
    """What this node does by itself with a task of its own."""
    grace_ms: int = 0
    """How long after a deadline this node forfeits an attempt at its own task."""
    auto_bid: bool = False
    auto_run: bool = False
    offer: int | Declined | None = None
    """The price for which this node would bid, or why not. None: not asked."""
    objection: Declined | None = None
    """Why this node's runner would refuse the task."""
    paused: bool = False
    draining: bool = False
    local_run: str = ""
    """The stage of the run on this node."""
    queue_position: int | None = None
    lease_until_s: int | None = None
    heard_s: int | None = None
    """When the current run was heard of last."""
    unsigned: str = ""
    unsigned_reason: Reason | None = None

    @property
    def now_s(self) -> int:
        """The present time in seconds."""
        return self.now_ms // 1000


class View:
    """A task as the node ``here`` sees it."""

    def __init__(self, record: Record, seed: Seed, here: Here) -> None:
        self.record = record
        self.seed = seed
        self.here = here
        self.progress = record.progress
        self.status = record.progress.status
        self.now_s = here.now_s
        self.is_own = seed.created_by == here.node_id
        self.bids = [fact.body for fact in counting_bids(record) if isinstance(fact.body, Bid)]
        self.claims = [fact.body for fact in record.others if isinstance(fact.body, Claim)]
        self.own_bid = next((bid for bid in self.bids if bid.bidder == here.node_id), None)

    def name(self, node_id: str | None) -> str:
        """A node in a sentence."""
        return THIS if node_id == self.here.node_id else node(node_id)

    @property
    def publisher(self) -> str:
        """The creator of the task in a sentence."""
        return self.name(self.seed.created_by)

    @property
    def worker(self) -> str:
        """The worker of the current claim in a sentence."""
        return self.name(self.progress.claimed_by)

    @property
    def note(self) -> str:
        """What the publisher has noted about the last settlement, after a colon."""
        said = " ".join(self.progress.note.split())
        if not said or (self.status not in FINAL and self.status is not SeedStatus.FORFEITED):
            return ""
        return f": {said if len(said) <= NOTE_CHARS else said[:NOTE_CHARS] + '…'}"

    def mine(self, stage: Stage) -> Stage:
        """A stage that waits for this node, which may not be able to sign at the moment."""
        here = self.here
        if not here.unsigned:
            return stage
        text = f"{stage.text}; this node signs nothing at the moment: {here.unsigned}"
        return replace(stage, text=text, reason=here.unsigned_reason, change="")
