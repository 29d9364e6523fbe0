"""The frames of a data dir for the tools: every valid frame, and every hole between them."""

from __future__ import annotations

from collections.abc import Iterator

from crabnet.core.replica.records import is_frame_of_records
from crabnet.storage.files import Files
from crabnet.storage.journal.segment import Frame
from crabnet.storage.journal.walk import Hole, Segment, read_hole
from crabnet.storage.journal.walk import walk_journal as _walk
from crabnet.storage.layout import Layout

__all__ = ["Frame", "Hole", "Segment", "read_hole", "walk_journal"]


def walk_journal(files: Files, layout: Layout) -> Iterator[Segment | Frame | Hole]:
    """Everything from the first frame on, including history/. Raises StorageFailedError."""
    return _walk(files, layout, is_frame_of_records)
