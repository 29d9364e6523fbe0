"""``crabnet audit proof``: the forks that the journal proves, as documents that anybody can verify.

They are read from the journal without the lock and without an index. The evidence stays in the journal permanently,
whatever was checkpointed or archived since.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from crabnet.core.replica.records import EnvelopeRecord, ForkRecord, decode_frame, envelope_of
from crabnet.errors import DataDirDamagedError, Reason, RefusedError, UsageError
from crabnet.limits import FORK_PROOF_BYTES_MAX
from crabnet.operator.frames import Frame, walk_journal
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.fork_proof import ForkEvidence, ProofRefusedError, document_of, verify_proof
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_whole
from crabnet.storage.layout import Layout

_SNIFF_BYTES: Final = 64


class ForkRow(Struct, frozen=True, kw_only=True):
    """The content of a proof: the feed ends before ``seq``."""

    author: str
    namespace: str
    seq: int
    envelope_ids: tuple[str, str]
    kinds: tuple[str, str]
    ts: tuple[int, int]


class StoredProof(NamedTuple):
    """A verified proof and its document."""

    row: ForkRow
    document: bytes


def row_of(evidence: ForkEvidence) -> ForkRow:
    """The content of a verified proof."""
    lower, higher = evidence.meta, evidence.higher.envelope.meta
    return ForkRow(
        author=lower.from_,
        namespace=lower.ns,
        seq=lower.seq,
        envelope_ids=(lower.id, higher.id),
        kinds=(lower.kind, higher.kind),
        ts=(lower.ts, higher.ts),
    )


def stored_proofs(files: Files, data_dir: Path, author: str | None = None) -> list[StoredProof]:
    """Every fork of one author or of all that the journal proves, by author and seq. Each is verified again.

    Raises StorageFailedError, DataDirDamagedError for evidence that does not verify, UsageError without a journal.
    """
    layout = Layout(data_dir)
    with guarded("read the data dir", data_dir):
        if files.size(layout.journal) is None:
            raise UsageError(f"there is no data dir at {data_dir}: no ledger was found", Reason.NO_DATA_DIR)
    raws = _evidence(files, layout, author)
    found = []
    for (by, seq), envelopes in sorted(raws.items()):
        pair = [envelopes[envelope_id] for envelope_id in sorted(envelopes)][:2]
        if len(pair) < 2:
            raise DataDirDamagedError(
                f"the journal of {data_dir} records a fork of {by} at seq {seq}, but lacks one of the two envelopes;"
                " run `crabnet audit verify`"
            )
        try:
            evidence = verify_proof(document_of(*pair))
        except ProofRefusedError as error:
            raise DataDirDamagedError(f"the evidence against {by} at seq {seq} is not valid: {error.detail}") from error
        found.append(StoredProof(row_of(evidence), evidence.document()))
    return found


def _evidence(files: Files, layout: Layout, author: str | None) -> dict[tuple[str, int], dict[str, bytes]]:
    """The stored envelopes for each place of a fork, by id."""
    found: dict[tuple[str, int], dict[str, bytes]] = {}
    for frame in _frames(files, layout):
        for record in decode_frame(frame.payload):
            if isinstance(record, ForkRecord):
                meta = envelope_of(record).meta
                if author is None or meta.from_ == author:
                    found.setdefault((meta.from_, meta.seq), {})[meta.id] = bytes(record.raw)
    for frame in _frames(files, layout) if found else ():
        for record in decode_frame(frame.payload):
            if isinstance(record, EnvelopeRecord):
                meta = envelope_of(record).meta
                if (meta.from_, meta.seq) in found and meta.v is not None:
                    found[meta.from_, meta.seq][meta.id] = bytes(record.raw)
    return found


def _frames(files: Files, layout: Layout) -> Iterator[Frame]:
    return (item for item in walk_journal(files, layout) if isinstance(item, Frame))


def looks_like_proofs(files: Files, path: Path) -> bool:
    """Whether a file can contain proofs of forks. No export and no state of the Rust program has the same beginning.

    Raises UsageError, StorageFailedError.
    """
    with guarded("read the file", path):
        if files.size(path) is None:
            raise UsageError(f"there is no file {path}", Reason.INVALID_ARGUMENT)
        with opened(files, path, OpenMode.READ) as fd:
            start = files.pread(fd, _SNIFF_BYTES, 0)
    return start.lstrip().replace(b" ", b"").replace(b"\n", b"").startswith(b'{"envelopes":')


def check_file(files: Files, path: Path) -> list[StoredProof]:
    """The proofs in a file, one document per line, each verified. Raises RefusedError (what is wrong), UsageError."""
    try:
        size = files.size(path)
    except OSError:
        size = None
    if size is None:
        raise UsageError(f"there is no file {path}", Reason.INVALID_ARGUMENT)
    bytes_max = 64 * FORK_PROOF_BYTES_MAX
    with guarded("read the proof", path):
        data = read_whole(files, path, bytes_max)
    if data is None or len(data) > bytes_max:
        raise RefusedError(f"{path} has more than {bytes_max} bytes; split it", Reason.TOO_LARGE)
    try:
        return [StoredProof(row_of(evidence), evidence.document()) for evidence in _each(data)]
    except ProofRefusedError as error:
        raise RefusedError(f"{path} proves no fork: {error.detail}", error.reason) from error


def _each(data: bytes) -> Iterator[ForkEvidence]:
    whole = data.strip()
    if not whole:
        raise ProofRefusedError(Reason.EMPTY, "it is empty")
    lines = [line for line in whole.split(b"\n") if line.strip()]
    if all(line.lstrip().startswith(b"{") and line.rstrip().endswith(b"}") for line in lines):
        for number, line in enumerate(lines, 1):
            try:
                yield verify_proof(line)
            except ProofRefusedError as error:
                where = f"line {number}: " if len(lines) > 1 else ""
                raise ProofRefusedError(error.reason, where + error.detail) from error
    else:
        yield verify_proof(whole)


def shown(proof: StoredProof) -> JsonObject:
    """A proof for JSON output: its content and the document itself."""
    fields: JsonObject = msgspec.to_builtins(proof.row)
    fields["proof"] = msgspec.json.decode(proof.document)
    return fields


def describe(row: ForkRow) -> str:
    """One line for people."""
    first, second = row.envelope_ids
    return (
        f"{row.author} signed two envelopes for seq {row.seq} of namespace {row.namespace}, so its feed ends before"
        f" that place: {first} and {second}"
    )
