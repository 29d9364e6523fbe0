"""The operations of the market: purchases, offers of work, accounts, receipts (ADR 44)."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.domain.model import SeedStatus
from crabnet.errors import Reason
from crabnet.market.stages import StageName, StageState
from crabnet.operations.model import Alone, Kind, Operation, Request, Route, Scope


class ReceiptRequest(Request, frozen=True, kw_only=True):
    """A task that has ended."""

    seed_id: str


class Receipt(Struct, frozen=True, kw_only=True):
    """The receipt of a task."""

    seed_id: str
    document: str
    """The whole text of the receipt, with the newline at its end. Written to a file as it is, it can be verified by
    anybody: ``crabnet receipt verify``."""


RECEIPT: Final = Operation(
    name="seed.receipt",
    route=Route("GET", "/seeds/{seed_id}/receipt"),
    request=ReceiptRequest,
    response=Receipt,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Make the receipt of a task that was settled, withdrawn or forfeited.",
    description=(
        "It holds the signed envelopes of the task's steps, from the seed to the settlement and its acknowledgement."
        " It proves itself: see docs/PROTOCOL.md, section 18. It is public, as the envelopes are."
    ),
    reasons=frozenset(
        {
            Reason.UNKNOWN_SEED,
            Reason.WRONG_STATE,
            Reason.FORK,
            Reason.MISSING_SIGNATURE,
            Reason.UNAVAILABLE,
            Reason.DATA_DIR_DAMAGED,
        }
    ),
)


class WhyRequest(Request, frozen=True, kw_only=True):
    """A task to explain."""

    seed_id: str


class WhyStage(Struct, frozen=True, kw_only=True):
    """One stage of a task."""

    stage: StageName
    state: StageState
    text: str
    """What has happened, or what is waited for. Empty if it is not reached."""
    waits_for: str | None
    """The node that has to do something. Null: any worker, or nobody."""
    mine: bool
    """It waits for this node."""
    since_ts: int | None
    until_ts: int | None
    """When waiting ends, or may end."""
    reason: str | None
    change: str
    """What would change it."""


class DeclinedBy(Struct, frozen=True, kw_only=True):
    """Workers that say why they do not bid. Nobody can check it: these are their words."""

    reason: str
    """``not_allowed``, ``price``, ``busy``, ``schedule``, ``trust``, ``resources`` or ``other``."""
    workers: int
    price_min: int | None
    """The least price for which one of them would bid."""


class Why(Struct, frozen=True, kw_only=True):
    """Why a task is where it is, as this node sees it."""

    seed_id: str
    status: SeedStatus
    title: str
    headline: str
    """One sentence."""
    stages: list[WhyStage]
    declines: list[DeclinedBy]
    """Of a task of this node."""


WHY: Final = Operation(
    name="seed.why",
    route=Route("GET", "/seeds/{seed_id}/why"),
    request=WhyRequest,
    response=Why,
    scope=Scope.READ,
    kind=Kind.READS,
    alone=Alone.READS,
    summary="Explain why a task is where it is.",
    description=(
        "For each stage: what has happened or is waited for, since when and until when, and what would change it."
        " Workers that do not bid may say why; `declines` counts them."
    ),
    reasons=frozenset({Reason.UNKNOWN_SEED}),
)
