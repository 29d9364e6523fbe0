"""``crabnet state import``: imports the entries of a file into the node, whether it runs or not."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec
import trio

from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.domain.model import Fact
from crabnet.errors import CrabnetError, RefusedError
from crabnet.limits import IMPORT_BATCH_BYTES, IMPORT_BATCH_ENTRIES
from crabnet.node.node import Node
from crabnet.node.operations.doors import as_json, dispatch
from crabnet.protocol.canonical import JsonObject
from crabnet.settings import Settings

METHOD: Final = "state.import"


class Proof(NamedTuple):
    """The document that proves a fork."""

    document: bytes


Entry = bytes | Fact | Proof
"""An envelope, an unsigned fact of a baseline state, or a proof of a fork."""


@dataclass
class ImportTotals:
    """The results of the entries: accepted, or ignored and rejected by Reason."""

    entries: int = 0
    accepted: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, str | None] = field(default_factory=dict)
    """Statuses of the requested seeds; None for an unknown one."""

    def add(self, entries: int, answer: JsonValue) -> None:
        """Count the answer to one batch. Raises CrabnetError for an invalid answer."""
        self.entries += entries
        accepted = answer.get("accepted") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(accepted, int):
            raise CrabnetError(
                "the node's answer to state.import cannot be read; check that the node runs the same version"
            )
        self.accepted += accepted
        for name, counter in (("ignored", self.ignored), ("rejected", self.rejected)):
            counts = answer.get(name)
            for reason, count in (counts if isinstance(counts, dict) else {}).items():
                counter[reason] += count if isinstance(count, int) else 0


Perform = Callable[[str, JsonObject], Awaitable[JsonValue]]


class _Import:
    """An import that can be continued where it stopped: in another node, or here."""

    def __init__(self, entries: Iterable[Entry], seed_ids: Iterable[str]) -> None:
        self.totals = ImportTotals()
        self._batches = _batches(entries)
        self._pending: list[Entry] | None = next(self._batches, [])
        self._seed_ids = list(reversed(list(seed_ids)))

    async def run(self, perform: Perform) -> None:
        while self._pending is not None:
            answer = await perform(METHOD, _params(self._pending))
            self.totals.add(len(self._pending), answer)
            self._pending = next(self._batches, None)
        while self._seed_ids:
            self.totals.statuses[self._seed_ids[-1]] = await _status_of(perform, self._seed_ids[-1])
            self._seed_ids.pop()


async def _status_of(perform: Perform, seed_id: str) -> str | None:
    try:
        shown = await perform("seed.show", {"seed_id": seed_id, "limit": 1})
    except RefusedError:
        return None
    seed = shown.get("seed") if isinstance(shown, dict) else None
    status = seed.get("status") if isinstance(seed, dict) else None
    return status if isinstance(status, str) else None


def import_entries(settings: Settings, entries: Iterable[Entry], seed_ids: Iterable[str] = ()) -> ImportTotals:
    """Send entries to the node that runs on the data dir, or open it here. A batch is durable when it is counted.

    Afterwards it requests the statuses of ``seed_ids``. Raises the errors that the node answers, and those of opening:
    DataDirBusyError, DataDirDamagedError, StorageFailedError.
    """
    job = _Import(entries, seed_ids)

    async def by_socket(method: str, params: JsonObject) -> JsonValue:
        return call(settings.data_dir, method, params, settings.control_timeout_ms)

    async def here() -> None:
        async with Node(settings, listen=False) as node:

            async def by_node(method: str, params: JsonObject) -> JsonValue:
                return as_json(await dispatch(node, method, params))

            await job.run(by_node)

    try:
        trio.run(job.run, by_socket)
    except NodeNotRunningError:
        trio.run(here)
    return job.totals


def _params(batch: list[Entry]) -> JsonObject:
    facts: list[JsonValue] = [
        {"kind": each.kind.value, "author": each.author, "ts": each.ts, "body": msgspec.to_builtins(each.body)}
        for each in batch
        if isinstance(each, Fact)
    ]
    params: JsonObject = {
        "envelopes": [b64encode(each).decode() for each in batch if isinstance(each, bytes)],
        "facts": facts,
    }
    proofs: list[JsonValue] = [b64encode(each.document).decode() for each in batch if isinstance(each, Proof)]
    return {**params, "proofs": proofs} if proofs else params


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        entry_bytes = _size(entry)
        if batch and (size + entry_bytes > IMPORT_BATCH_BYTES or len(batch) >= IMPORT_BATCH_ENTRIES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry_bytes
    if batch:
        yield batch


def _size(entry: Entry) -> int:
    if isinstance(entry, Fact):
        return len(msgspec.json.encode(entry.body))
    return len(entry.document if isinstance(entry, Proof) else entry)
