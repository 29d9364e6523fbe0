"""The namespace of a data dir, read from the data dir itself: a tool may have other settings than the node."""

from __future__ import annotations

import msgspec

from crabnet.core.replica.records import EnvelopeRecord, decode_frame, envelope_of
from crabnet.errors import DataDirDamagedError, Reason, UsageError
from crabnet.operator.frames import Frame, walk_journal
from crabnet.storage.files import Files
from crabnet.storage.layout import Layout


def namespace_of(files: Files, layout: Layout) -> str | None:
    """The namespace of the first readable signed envelope in the journal; None if there is none.

    Raises StorageFailedError.
    """
    for item in walk_journal(files, layout):
        if not isinstance(item, Frame):
            continue
        try:
            for record in decode_frame(item.payload):
                if isinstance(record, EnvelopeRecord) and (meta := envelope_of(record).meta).v is not None:
                    return meta.ns
        except (DataDirDamagedError, msgspec.MsgspecError, ValueError):
            continue
    return None


def demand_namespace(files: Files, layout: Layout, namespace: str) -> None:
    """Raise UsageError (WRONG_NAMESPACE) if the data dir is of another namespace; StorageFailedError as above."""
    held = namespace_of(files, layout)
    if held is not None and held != namespace:
        raise UsageError(
            f"the data dir {layout.data_dir} belongs to namespace {held!r}, but the settings say {namespace!r};"
            f" give --namespace {held}",
            Reason.WRONG_NAMESPACE,
        )
