"""``crabnet state export``: writes what a version vector lacks from the journal to one signed file.

The journal is read without the lock, one frame at a time, three times: to find what the receiver has, to count, and to
write. In the journal every envelope comes after the one that it rests on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from crabnet.core.replica.records import EnvelopeRecord, FactRecord, ForkRecord, Record, decode_frame, fact_of_row
from crabnet.errors import Reason, RefusedError
from crabnet.limits import STORAGE_CHUNK_BYTES
from crabnet.operator.exchange import (
    EXPORT_TYPE,
    ExportHeader,
    Vector,
    VectorEntry,
    encode_header,
    encode_trailer,
    fact_line,
)
from crabnet.operator.frames import walk_journal
from crabnet.protocol.statement import sign_statement
from crabnet.storage.files import Files, OpenMode, guarded, opened, write_all
from crabnet.storage.journal.segment import Frame
from crabnet.storage.layout import Layout


class Source(NamedTuple):
    """The holdings of a node: its version vector after frame ``lsn``."""

    namespace: str
    node_id: str
    lsn: int
    heads: Vector


class Wanted(NamedTuple):
    """The content of an export: all that ``base`` lacks. ``unsigned`` adds unsigned envelopes and imported facts."""

    base: Vector
    unsigned: bool = False


class _Meta(msgspec.Struct, gc=False):
    id: str
    from_: str = msgspec.field(name="from")
    v: int | None = None
    seq: int = 0


class _Envelope(msgspec.Struct, gc=False):
    meta: _Meta


_decode_meta: Final = msgspec.json.Decoder(_Envelope).decode


class _Stored(NamedTuple):
    """An envelope of the journal. ``apart``: it is in no feed, but proves a fork, or others rest on it."""

    meta: _Meta
    apart: bool
    raw: bytes


@dataclass
class ExportResult:
    """The result of an export."""

    header: ExportHeader
    bytes: int
    unsigned_left_out: int


class _Selection:
    """Which envelopes of a journal a version vector lacks."""

    def __init__(self, files: Files, data_dir: Path, source: Source, base: Mapping[str, VectorEntry]) -> None:
        self._files = files
        self._layout = Layout(data_dir)
        self._source = source
        self._base = base
        self._at_base: dict[str, str] = {}
        self._first: dict[str, int] = {}
        for stored in self._envelopes():
            meta = stored.meta
            known = base.get(meta.from_)
            if meta.v is not None and known is not None and meta.seq == known.seq and not stored.apart:
                self._at_base[meta.from_] = meta.id
        for author, known in base.items():
            forked = self._at_base.get(author, known.id) != known.id
            self._first[author] = 1 if forked else known.seq + 1

    def _records(self) -> Iterator[Record]:
        for item in walk_journal(self._files, self._layout):
            if not isinstance(item, Frame):
                continue
            if item.lsn > self._source.lsn:
                return
            yield from decode_frame(item.payload)

    def _envelopes(self) -> Iterator[_Stored]:
        for record in self._records():
            if isinstance(record, EnvelopeRecord | ForkRecord):
                raw = bytes(record.raw)
                apart = isinstance(record, ForkRecord) or record.behind
                yield _Stored(_decode_meta(raw).meta, apart, raw)

    def signed(self) -> Iterator[_Stored]:
        """The envelopes that the vector lacks, and all that are in no feed."""
        for stored in self._envelopes():
            meta = stored.meta
            if meta.v is not None and (stored.apart or meta.seq >= self._first.get(meta.from_, 1)):
                yield stored

    def unsigned(self) -> Iterator[bytes]:
        """Envelopes of the old protocol, which belong to no feed, and facts of a baseline state, in journal order."""
        for record in self._records():
            if isinstance(record, FactRecord):
                yield fact_line(fact_of_row(record.fact))
            elif isinstance(record, EnvelopeRecord) and _decode_meta(bytes(record.raw)).meta.v is None:
                yield bytes(record.raw)

    def incomplete(self) -> tuple[int, tuple[str, ...]]:
        """The number of envelopes to export, and the feeds of which some are missing."""
        count = 0
        next_seq = dict(self._first)
        broken: set[str] = set()
        for stored in self.signed():
            meta = stored.meta
            count += 1
            if stored.apart:
                continue
            if meta.seq != next_seq.get(meta.from_, 1):
                broken.add(meta.from_)
            next_seq[meta.from_] = meta.seq + 1
        for author, head in self._source.heads.items():
            if head.seq >= self._first.get(author, 1) and next_seq.get(author, 1) < head.seq + 1:
                broken.add(author)
        return count, tuple(sorted(broken))


def _is_ahead(base: VectorEntry, ours: VectorEntry) -> bool:
    """True if the receiver holds more of a feed than this node, and still does after the import."""
    return base.seq > ours.seq and not 0 < ours.end <= base.seq


def export_state(
    files: Files,
    data_dir: Path,
    path: Path,
    *,
    source: Source,
    wanted: Wanted,
    key_seed: bytes,
    now_s: int,
    overwrite: bool = False,
) -> ExportResult:
    """Write what is ``wanted`` to ``path`` with mode 0600, completely or not at all.

    Raises RefusedError if the file exists, and DataDirDamagedError or StorageFailedError if the journal cannot be read
    or the file cannot be written.
    """
    with guarded("look for the file", path):
        exists = files.size(path) is not None
    if exists and not overwrite:
        raise RefusedError(f"{path} exists; choose another name, or give --force to replace it", Reason.FILE_EXISTS)
    base, with_unsigned = wanted
    selection = _Selection(files, data_dir, source, base)
    count, incomplete = selection.incomplete()
    legacy = sum(1 for _ in selection.unsigned())
    heads = {author: head for author, head in source.heads.items() if author not in incomplete}
    ahead = {author: entry for author, entry in base.items() if author not in heads or _is_ahead(entry, heads[author])}
    header = ExportHeader(
        namespace=source.namespace,
        node_id=source.node_id,
        created_at=now_s,
        base=dict(base),
        heads={**heads, **ahead},
        entries=count + (legacy if with_unsigned else 0),
        unsigned=legacy if with_unsigned else 0,
        incomplete=incomplete,
    )

    def lines() -> Iterator[bytes]:
        yield encode_header(header)
        if with_unsigned:
            yield from (raw + b"\n" for raw in selection.unsigned())
        yield from (stored.raw + b"\n" for stored in selection.signed())

    with guarded("write the export", path):
        size = _write(files, path, lines(), lambda sha256: sign_statement(key_seed, EXPORT_TYPE, sha256.encode()))
    return ExportResult(header, size, 0 if with_unsigned else legacy)


def _write(files: Files, path: Path, lines: Iterator[bytes], sign: Callable[[str], str]) -> int:
    temporary = path.with_name(f".{path.name}.crabnet-export")
    digest = hashlib.sha256()
    offset = 0
    if files.size(temporary) is not None:
        files.unlink(temporary)
    try:
        with opened(files, temporary, OpenMode.CREATE) as fd:
            buffer: list[bytes] = []
            buffered = 0
            for line in lines:
                digest.update(line)
                buffer.append(line)
                buffered += len(line)
                if buffered >= STORAGE_CHUNK_BYTES:
                    offset = write_all(files, fd, b"".join(buffer), offset)
                    buffer, buffered = [], 0
            sha256 = digest.hexdigest()
            buffer.append(encode_trailer(sha256, sign(sha256)))
            offset = write_all(files, fd, b"".join(buffer), offset)
            files.fsync(fd)
        files.rename(temporary, path)
    except BaseException:
        if files.size(temporary) is not None:
            files.unlink(temporary)
        raise
    files.fsync_dir(path.parent)
    return offset
