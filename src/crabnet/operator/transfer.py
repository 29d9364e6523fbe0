"""``crabnet state import``: the envelopes of an export into the node, whether it runs or not."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import trio

from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import CrabnetError
from crabnet.limits import IMPORT_BATCH_BYTES, IMPORT_BATCH_ENTRIES
from crabnet.node.node import Node
from crabnet.node.operations import dispatch
from crabnet.protocol.canonical import JsonObject
from crabnet.settings import Settings

METHOD = "state.import"


@dataclass
class ImportTotals:
    """What became of the entries: by Reason unless accepted."""

    entries: int = 0
    accepted: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, entries: int, answer: JsonValue) -> None:
        """Count the answer to one batch. Raises CrabnetError for one that is none."""
        self.entries += entries
        accepted = answer.get("accepted") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(accepted, int):
            raise CrabnetError("the node's answer to state.import is not known; is it of another version?")
        self.accepted += accepted
        for name, counter in (("ignored", self.ignored), ("rejected", self.rejected)):
            counts = answer.get(name)
            for reason, count in (counts if isinstance(counts, dict) else {}).items():
                counter[reason] += count if isinstance(count, int) else 0


def import_entries(settings: Settings, entries: Iterable[bytes]) -> ImportTotals:
    """Give envelopes to the node that runs on the data dir, or open it here. Every batch is durable when it is counted.

    Raises what the node answers or opening raises: DataDirBusyError, DataDirDamagedError, StorageFailedError.
    """
    totals = ImportTotals()
    batches = _batches(entries)
    pending: list[bytes] | None = next(batches, [])
    try:
        while pending is not None:
            answer = call(settings.data_dir, METHOD, _params(pending), settings.control_timeout_ms)
            totals.add(len(pending), answer)
            pending = next(batches, None)
    except NodeNotRunningError:
        if pending is not None:
            trio.run(_import_here, settings, pending, batches, totals)
    return totals


async def _import_here(
    settings: Settings, pending: list[bytes], batches: Iterator[list[bytes]], totals: ImportTotals
) -> None:
    async with Node(settings, listen=False) as node:
        batch: list[bytes] | None = pending
        while batch is not None:
            totals.add(len(batch), await dispatch(node, METHOD, _params(batch)))
            batch = next(batches, None)


def _params(batch: list[bytes]) -> JsonObject:
    return {"envelopes": [b64encode(raw).decode() for raw in batch]}


def _batches(entries: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for raw in entries:
        if batch and (size + len(raw) > IMPORT_BATCH_BYTES or len(batch) >= IMPORT_BATCH_ENTRIES):
            yield batch
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        yield batch
