"""What became of an envelope: the outcomes that ``replica`` returns."""

from __future__ import annotations

import hashlib

from msgspec import Struct

from crabnet.domain.model import Progress
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.admission import Admitted, Refusal
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.feed import ForkProof


class Change(Struct, frozen=True, gc=False):
    """How a seed moved."""

    seed_id: str
    before: Progress | None
    after: Progress


class Applied(Struct, frozen=True, gc=False):
    """What became of one envelope. ``record`` is there if it is to be journalled."""

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    meta: EnvelopeMeta | None = None
    admitted: Admitted | None = None
    record: bytes | None = None
    seed_id: str = ""
    changes: tuple[Change, ...] = ()
    proof: ForkProof | None = None
    parked: bool = False
    in_feed: bool = False
    raw: bytes = b""
    """The envelope as it was signed, if it entered its feed."""
    learned: bool = False
    """It came as somebody's proof of a fork and stands nowhere."""
    asleep: str = ""
    """The object that its fact waits for outside memory."""
    woken: bool = False
    """It is an earlier envelope, whose fact had slept."""
    roused: tuple[str, ...] = ()
    """Objects that count from now on, for which facts may sleep."""


def refused_by(refused: Refusal) -> Applied:
    """The outcome of an envelope that was refused before it had a place in a feed."""
    return Applied(refused.outcome, refused.reason, refused.detail, refused.meta)


def combined_hash(namespace: str, seeds: bytes, feeds: bytes) -> str:
    """The state hash of the digests of all seeds and all feeds."""
    return hashlib.sha256(b"crabnet-state\0" + namespace.encode() + b"\0" + seeds + feeds).hexdigest()
