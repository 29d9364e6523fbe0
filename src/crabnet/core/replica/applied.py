"""What became of an envelope: the outcomes that ``replica`` returns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from crabnet.core.replica.held import HeldRow
from crabnet.domain.model import Progress
from crabnet.domain.state import Outcome, SeedEvent, State, apply
from crabnet.errors import Reason
from crabnet.protocol.admission import Admitted, Refusal
from crabnet.protocol.envelope import EnvelopeMeta
from crabnet.protocol.sync import Named


class Change(Struct, frozen=True, gc=False):
    """How a seed moved."""

    seed_id: str
    before: Progress | None
    after: Progress


class Fork(NamedTuple):
    """Two envelopes of one author for one place."""

    author: str
    seq: int
    envelope_id: str
    other_id: str


class Applied(Struct, frozen=True, gc=False):
    """What became of one envelope. ``record`` is there if it is to be journalled."""

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    meta: EnvelopeMeta | None = None
    admitted: Admitted | None = None
    record: bytes | None = None
    row: HeldRow | None = None
    """What the index is to know of the envelope in ``record``."""
    seed_id: str = ""
    changes: tuple[Change, ...] = ()
    fork: Fork | None = None
    """The end of the feed that it has brought."""
    parked: bool = False
    lacks: Named | None = None
    """What it rests on, and waits for."""
    in_feed: bool = False
    raw: bytes = b""
    """The envelope as it was signed, if it entered its feed."""
    quiet: bool = False
    """It is evidence, or came earlier: no word of its own is due."""


def apply_all(state: State, events: Iterable[SeedEvent]) -> tuple[Change, ...]:
    """Make events so; which seeds have moved by that."""
    before: dict[str, Progress | None] = {}
    for event in events:
        record = state.records.get(event.seed_id)
        before.setdefault(event.seed_id, None if record is None else record.progress)
        apply(state, event)
    changes = []
    for seed_id, progress in before.items():
        after = state.records.get(seed_id)
        if after is not None and after.progress is not progress and after.progress != progress:
            changes.append(Change(seed_id, progress, after.progress))
    return tuple(changes)


def refused_by(refused: Refusal) -> Applied:
    """The outcome of an envelope that was refused before it had a place in a feed."""
    return Applied(refused.outcome, refused.reason, refused.detail, refused.meta)


def combined_hash(namespace: str, seeds: bytes, feeds: bytes) -> str:
    """The state hash of the digests of all seeds and all feeds."""
    return hashlib.sha256(b"crabnet-state\0" + namespace.encode() + b"\0" + seeds + feeds).hexdigest()
