"""The outcomes of envelopes that ``replica`` returns."""

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
    """A change of the progress of a seed."""

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
    """The outcome of one envelope. ``record`` is its journal record, None if it is not to be journalled."""

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""
    meta: EnvelopeMeta | None = None
    admitted: Admitted | None = None
    record: bytes | None = None
    row: HeldRow | None = None
    """The row for the index about the envelope in ``record``."""
    seed_id: str = ""
    changes: tuple[Change, ...] = ()
    fork: Fork | None = None
    """The fork that it proves, which ends the feed."""
    parked: bool = False
    lacks: Named | None = None
    """The envelope that it rests on and waits for."""
    in_feed: bool = False
    raw: bytes = b""
    """The envelope as it was signed, if it entered its feed."""
    quiet: bool = False
    """True if it needs no notice of its own, because it is evidence or arrived earlier."""


def apply_all(state: State, events: Iterable[SeedEvent]) -> tuple[Change, ...]:
    """Apply events. Returns the seeds whose progress changed."""
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
    """The state hash, from the digests of all seeds and of all feeds (docs/PROTOCOL.md, section 16)."""
    return hashlib.sha256(b"crabnet-state\0" + namespace.encode() + b"\0" + seeds + feeds).hexdigest()
