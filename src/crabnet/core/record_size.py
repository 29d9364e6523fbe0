"""Whether the journal record of a decision fits in a frame: asked before anything is changed, since it must.

What is large in a record: its envelope (512 KiB, for an unsigned one its fact as well), rows of archived seeds (1 MiB
each), and what becomes of facts, of which one envelope can concern many. All other kinds of records are small: two
envelopes at most, or the ids of a segment's seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw

from crabnet import limits
from crabnet.core.records import event_row
from crabnet.core.rows import SEED_ROW_BYTES_MAX
from crabnet.domain.lifecycle import Record
from crabnet.domain.state import SeedEvent

_FEW: Final = 1_000
"""So many judgements have less than 1 MiB, with the longest ids."""
_JUDGEMENT_BYTES: Final = 128
"""One judgement without the id of its fact."""
_PROGRESS_BYTES: Final = 6 * limits.RULES_CHARS_MAX + 8 * 1024
"""The progress of a seed: a note, and four ids."""
_encode: Final = msgspec.json.Encoder().encode


def record_too_large(raw: bytes, events: Sequence[SeedEvent], thawed: Sequence[Raw], more: int = 0) -> bool:
    """True if the record of an envelope would not fit; ``more`` are bytes of what is yet to be decided."""
    thawed_bytes = sum(len(bytes(row)) + 1 for row in thawed)
    judged = sum(len(event.judgements) + len(event.removed) for event in events)
    if len(events) <= 1 and judged <= _FEW and thawed_bytes <= SEED_ROW_BYTES_MAX and not more:
        return False
    said = sum(len(_encode(event_row(event))) + 1 for event in events)
    return 2 * len(raw) + thawed_bytes + said + more > limits.RECORD_BYTES_MAX - _PROGRESS_BYTES


def judged_bytes_max(record: Record) -> int:
    """The most that a decision about one more fact of a seed takes in a record, with the row of an archived one."""
    keys = sum(len(_encode(fact.key)) + _JUDGEMENT_BYTES for fact in record.facts())
    return keys + 2 * SEED_ROW_BYTES_MAX + _PROGRESS_BYTES
