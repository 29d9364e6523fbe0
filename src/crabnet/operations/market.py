"""The operations of the market: purchases, offers of work, accounts, receipts (ADR 44)."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from crabnet.errors import Reason
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
