"""``crabnet audit proof``: the forks that the journal proves, as documents that convince anybody.

Read from the journal without the lock and without an index: the evidence is there for ever, whatever was checkpointed
or archived since.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from crabnet.core.records import EnvelopeRecord, ForkRecord, ProofRecord, decode_frame, envelope_of
from crabnet.errors import DataDirDamagedError, Reason, RefusedError, UsageError
from crabnet.limits import FORK_PROOF_BYTES_MAX
from crabnet.operator.frames import Frame, walk_journal
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.fork_proof import ForkEvidence, ProofRefusedError, document_of, verify_proof
from crabnet.storage.files import Files, guarded, read_whole
from crabnet.storage.layout import Layout


class ForkRow(Struct, frozen=True, kw_only=True):
    """What a proof says. ``stands`` is null for two envelopes behind the place where the branches part."""

    author: str
    namespace: str
    seq: int
    stands: str | None
    does_not_stand: str | None
    envelope_ids: tuple[str, str]
    kinds: tuple[str, str]
    ts: tuple[int, int]


class StoredProof(NamedTuple):
    """A verified proof and its document."""

    row: ForkRow
    document: bytes


class _Place(NamedTuple):
    author: str
    seq: int
    lower: str
    higher: str


def row_of(evidence: ForkEvidence) -> ForkRow:
    """What a verified proof says."""
    lower, higher = evidence.meta, evidence.higher.envelope.meta
    return ForkRow(
        author=lower.from_,
        namespace=lower.ns,
        seq=lower.seq,
        stands=lower.id if evidence.same_parent else None,
        does_not_stand=higher.id if evidence.same_parent else None,
        envelope_ids=(lower.id, higher.id),
        kinds=(lower.kind, higher.kind),
        ts=(lower.ts, higher.ts),
    )


def stored_proofs(files: Files, data_dir: Path, author: str | None = None) -> list[StoredProof]:
    """Every fork that the journal proves, of one author or of all, by author and seq; each verified anew.

    Raises StorageFailedError, DataDirDamagedError for evidence that does not verify, UsageError without a journal.
    """
    layout = Layout(data_dir)
    with guarded("read the data dir", data_dir):
        if files.size(layout.journal) is None:
            raise UsageError(f"there is no ledger in {data_dir}", Reason.INVALID_ARGUMENT)
    documents, places = _noted(files, layout, author)
    raws = _envelopes(files, layout, {each for place in places for each in (place.lower, place.higher)})
    for place in places:
        lower, higher = raws.get(place.lower), raws.get(place.higher)
        if lower is None or higher is None:
            raise DataDirDamagedError(
                f"the journal of {data_dir} notes a fork of {place.author} at seq {place.seq}, but lacks an envelope"
                " of it; see `crabnet audit verify`"
            )
        documents[place] = document_of(lower, higher)
    found = []
    for place in sorted(documents):
        try:
            evidence = verify_proof(documents[place])
        except ProofRefusedError as error:
            raise DataDirDamagedError(f"evidence against {place.author} at seq {place.seq}: {error.detail}") from error
        found.append(StoredProof(row_of(evidence), evidence.document()))
    return found


def _noted(files: Files, layout: Layout, author: str | None) -> tuple[dict[_Place, bytes], list[_Place]]:
    """Documents that lie in the journal as they came, and forks whose envelopes lie there apart."""
    documents: dict[_Place, bytes] = {}
    places: dict[_Place, None] = {}
    for frame in _frames(files, layout):
        for record in decode_frame(frame.payload):
            if isinstance(record, ProofRecord):
                proof, by, document = record.proof, record.author, bytes(record.raw)
            elif isinstance(record, ForkRecord) or (isinstance(record, EnvelopeRecord) and record.cut is not None):
                cut = record.proof if isinstance(record, ForkRecord) else record.cut
                if cut is None:
                    continue
                proof, by, document = cut, envelope_of(record).meta.from_, b""
            else:
                continue
            if author is not None and by != author:
                continue
            place = _Place(by, proof.seq, *sorted((proof.id, proof.loser)))
            if document:
                documents[place] = document
            else:
                places[place] = None
    return documents, [place for place in places if place not in documents]


def _envelopes(files: Files, layout: Layout, ids: set[str]) -> dict[str, bytes]:
    """The stored envelopes with these ids."""
    found: dict[str, bytes] = {}
    missing = {each.encode() for each in ids}
    for frame in _frames(files, layout):
        if not missing:
            break
        if not any(each in frame.payload for each in missing):
            continue
        for record in decode_frame(frame.payload):
            if isinstance(record, EnvelopeRecord | ForkRecord):
                envelope_id = envelope_of(record).meta.id
                if envelope_id in ids:
                    found[envelope_id] = bytes(record.raw)
                    missing.discard(envelope_id.encode())
    return found


def _frames(files: Files, layout: Layout) -> Iterator[Frame]:
    return (item for item in walk_journal(files, layout) if isinstance(item, Frame))


def check_file(files: Files, path: Path) -> list[StoredProof]:
    """The proofs in a file, one document a line, each verified. Raises RefusedError (what is wrong), UsageError."""
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
        raise RefusedError(f"{path} has more than {bytes_max} bytes", Reason.TOO_LARGE)
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
    """A proof for JSON output: what it says, and the document itself."""
    fields: JsonObject = msgspec.to_builtins(proof.row)
    fields["proof"] = msgspec.json.decode(proof.document)
    return fields


def describe(row: ForkRow) -> str:
    """One line for people."""
    first, second = row.envelope_ids
    verdict = (
        f"{first} stands, {second} does not"
        if row.stands is not None
        else f"{first} and {second}, on branches that part before it"
    )
    return f"{row.author} signed two envelopes for seq {row.seq} of namespace {row.namespace}: {verdict}"
