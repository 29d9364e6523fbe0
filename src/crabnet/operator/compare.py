"""``crabnet state diff``: which feeds and which seeds differ between two exports, data dirs, or a running node."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec import Struct

from crabnet.core.replica.held import NothingHeld
from crabnet.core.replica.records import Via, decode_frame
from crabnet.core.replica.replica import Replica
from crabnet.core.replica.snapshot import restore
from crabnet.domain.model import Fact
from crabnet.domain.record import Record
from crabnet.domain.state import leaf
from crabnet.errors import DataDirDamagedError, Reason, RefusedError, UsageError
from crabnet.limits import BASELINE_STATE_BYTES_MAX
from crabnet.operator.archived import archived_only
from crabnet.operator.envelopes import any_age_policy
from crabnet.operator.exchange import VectorEntry, check_export, looks_like_baseline, read_entries
from crabnet.operator.namespace import namespace_of
from crabnet.operator.paths import input_file
from crabnet.protocol.baseline_state import parse_baseline_state
from crabnet.storage.checkpoint.format import CheckpointHeader
from crabnet.storage.checkpoint.reading import read_rows
from crabnet.storage.files import Files, guarded, read_whole
from crabnet.storage.ledger import Ledger
from crabnet.storage.opening.opening import iter_frames, refuse_if_told

LIVE: Final = "live"
DurableLsn = Callable[[Path], int | None]
"""The last durable frame of the node that runs on a data dir; None without a node."""


class SeedState(Struct, frozen=True, gc=False):
    """The state of a seed on one side. ``facts`` is the number that counts; ``digest`` covers them and the outcome."""

    status: str
    attempt: int
    bids: int
    facts: int
    worker: str | None
    result_id: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class Side:
    """The content of one side. ``partial``: an export that leaves out what its receiver had."""

    name: str
    namespace: str
    state_hash: str
    heads: dict[str, VectorEntry]
    seeds: dict[str, SeedState]
    partial: bool


class FeedDifference(Struct, frozen=True):
    """A feed that differs: [seq, id, end] on each side, or null if a side does not hold it."""

    node_id: str
    a: VectorEntry | None
    b: VectorEntry | None


class SeedDifference(Struct, frozen=True):
    """A seed that differs. A side that does not know it has null."""

    seed_id: str
    a: SeedState | None
    b: SeedState | None


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences. ``compared_seeds`` is false if a side is partial, so that seeds cannot be compared."""

    feeds: list[FeedDifference]
    seeds: list[SeedDifference]
    compared_seeds: bool

    @property
    def same(self) -> bool:
        return not self.feeds and not self.seeds


def load_side(files: Files, word: str, *, data_dir: Path, namespace: str, durable_lsn: DurableLsn) -> Side:
    """Read a side: ``live`` (the node of ``data_dir``), another data dir, an export, or a baseline's state.json.

    Changes nothing, needs no lock. Raises UsageError, RefusedError, DataDirDamagedError, StorageFailedError.
    """
    if word == LIVE:
        return _load_data_dir(files, str(data_dir), data_dir, namespace, durable_lsn(data_dir))
    path = Path(word).expanduser().resolve()
    if path.is_dir():
        return _load_data_dir(files, word, path, namespace, durable_lsn(path))
    path = input_file(path)
    if looks_like_baseline(files, path):
        return _load_baseline(files, word, path, namespace)
    return _load_export(files, word, path)


def compare(a: Side, b: Side) -> Difference:
    """The differences between two sides. Raises RefusedError if their namespaces differ."""
    if a.namespace != b.namespace:
        raise RefusedError(
            f"{a.name} belongs to namespace {a.namespace!r} and {b.name} to {b.namespace!r}; they cannot be compared",
            Reason.WRONG_NAMESPACE,
        )
    feeds = [
        FeedDifference(author, a.heads.get(author), b.heads.get(author))
        for author in sorted(a.heads.keys() | b.heads.keys())
        if a.heads.get(author) != b.heads.get(author)
    ]
    comparable = not a.partial and not b.partial
    seeds = [
        SeedDifference(seed_id, a.seeds.get(seed_id), b.seeds.get(seed_id))
        for seed_id in (sorted(a.seeds.keys() | b.seeds.keys()) if comparable else ())
        if a.seeds.get(seed_id) != b.seeds.get(seed_id)
    ]
    return Difference(feeds, seeds, comparable)


def describe_difference(difference: Difference, a: str, b: str) -> Iterator[str]:
    """Lines for people."""
    for feed in difference.feeds:
        yield f"feed {feed.node_id}: {_head(a, feed.a)}, {_head(b, feed.b)}{_distance(feed)}"
    for seed in difference.seeds:
        yield f"seed {seed.seed_id}: {_seed(a, seed.a)}, {_seed(b, seed.b)}"


def _head(name: str, head: VectorEntry | None) -> str:
    if head is None:
        return f"{name} has nothing"
    held = f"{name} has {head.seq} ({head.id[:16]}…)" if head.seq else f"{name} has no part of it that stands"
    return f"{held} and knows that it ends before {head.end}" if head.end else held


def _distance(feed: FeedDifference) -> str:
    if feed.a is not None and feed.b is not None and feed.a.seq == feed.b.seq and feed.a.id != feed.b.id:
        return ": forked"
    return ""


def _seed(name: str, seed: SeedState | None) -> str:
    if seed is None:
        return f"{name} does not know it"
    return f"{name} has {seed.status} (attempt {seed.attempt}, {seed.bids} bids, {seed.facts} facts)"


def _seed_state(seed_id: str, record: Record) -> SeedState:
    progress = record.progress
    return SeedState(
        progress.status.value,
        progress.attempt,
        len(record.bids),
        1 + len(record.bids) + len(record.others),
        progress.claimed_by,
        progress.result_id,
        hashlib.sha256(leaf(seed_id, record)).hexdigest()[:32],
    )


def _side(name: str, replica: Replica, *, partial: bool = False) -> Side:
    seeds = {
        seed_id: _seed_state(seed_id, record)
        for seed_id, record in replica.state.records.items()
        if record.seed is not None
    }
    heads = {
        feed.author: VectorEntry(feed.head_seq, feed.head_id, feed.end)
        for feed in replica.feeds.all()
        if feed.head_seq or feed.end
    }
    return Side(name, replica.namespace, replica.state_hash(), heads, seeds, partial)


def _scratch(namespace: str) -> Replica:
    return Replica(any_age_policy(namespace), seen_ttl_s=0, seen_capacity=1, parked_ttl_s=2**62)


def _load_data_dir(files: Files, name: str, path: Path, namespace: str, until_lsn: int | None) -> Side:
    found = Ledger.inspect(path, files=files)
    refuse_if_told(found, None)
    if not found.segments and found.base.finding is None:
        raise UsageError(f"there is no ledger in {path}", Reason.INVALID_ARGUMENT)
    base = found.base.finding
    replica = _scratch(
        _namespace_of((found.state.header, found.bak.header), namespace_of(files, found.layout) or namespace)
    )
    replica.held = NothingHeld()
    if base is not None and base.header is not None:
        restore(replica, read_rows(files, base))
    last = found.journal.last_lsn if until_lsn is None else min(until_lsn, found.journal.last_lsn)
    for frame in iter_frames(files, found.layout, found.base.lsn, last):
        for record in decode_frame(frame.payload):
            replica.replay(record)
    side = _side(name, replica)
    for seed_id, seed in archived_only(files, path, replica):
        side.seeds[seed_id] = _seed_state(seed_id, seed)
    return side


def _namespace_of(headers: Iterable[CheckpointHeader | None], otherwise: str) -> str:
    """The namespace that a checkpoint names."""
    named = (header.extra.get("namespace") for header in headers if header is not None)
    return next((name for name in named if isinstance(name, str)), otherwise)


def _load_export(files: Files, name: str, path: Path) -> Side:
    export = check_export(files, path)
    header = export.header
    replica = _scratch(header.namespace)
    if not header.is_full:
        return Side(name, header.namespace, "", header.heads, {}, partial=True)
    for entry in read_entries(files, export):
        if isinstance(entry, Fact):
            replica.import_fact(entry, header.created_at)
        else:
            replica.receive(entry, header.created_at, via=Via.IMPORT)
        replica.settling.settle_all(header.created_at)
    return _side(name, replica)


def _load_baseline(files: Files, name: str, path: Path, namespace: str) -> Side:
    with guarded("read the file", path):
        content = read_whole(files, path, BASELINE_STATE_BYTES_MAX)
    found = None if content is None else parse_baseline_state(content)
    if found is None:
        raise DataDirDamagedError(f"{path} is neither an export of Crabnet nor a state.json", Reason.FILE_DAMAGED)
    replica = _scratch(namespace)
    for fact in found.facts:
        replica.import_fact(fact, 0)
    return _side(name, replica)
