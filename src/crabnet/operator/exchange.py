r"""The export file: signed envelopes for a node that the network does not reach. NDJSON, version 1.

::

    {"format":"crabnet-export","version":1,"namespace":…,"node_id":…,"created_at":…,"base":{…},"heads":{…},…}\n
    <envelope>\n            in feed order, parents first if the exporter had them first
    {"sha256":"<over every byte before this line>","signature":"<by the exporter, over that hex text>"}\n

``base`` and ``heads`` are version vectors: what the receiver had, and what it has after the import. The signature is
DSSE with a type of its own. It proves who made the file. The import verifies each envelope in it nevertheless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.domain.model import Fact, NodeId
from crabnet.errors import DataDirDamagedError, Reason, RefusedError, UsageError
from crabnet.node.operations.importing import fact_of
from crabnet.operations.info import UnsignedFact
from crabnet.protocol.statement import statement_holds
from crabnet.storage.files import Files, OpenMode, guarded, opened, read_chunks, read_whole

EXPORT_FORMAT: Final = "crabnet-export"
EXPORT_VERSION: Final = 1
EXPORT_TYPE: Final = "application/vnd.crabnet.export.v1"
_SNIFF_BYTES: Final = 64


class VectorEntry(Struct, frozen=True, array_like=True):
    """How far a feed is held: the last ``seq`` and the id of the envelope there; 0 and "" if no part of it stands.

    ``end`` is the place before which the feed ends, or 0 if it has not ended.
    """

    seq: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)]
    id: Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]
    end: Annotated[int, Meta(ge=0, le=limits.INTEGER_MAX)] = 0

    def __post_init__(self) -> None:
        if bool(self.seq) is not bool(self.id) or not (self.seq or self.end) or 0 < self.end <= self.seq:
            raise ValueError("a head must have a seq and an id, and the end of its feed must be after it")


Vector = dict[NodeId, VectorEntry]


class ExportHeader(Struct, frozen=True, kw_only=True):
    """The first line. ``created_at`` is in seconds. ``incomplete`` names feeds of which the exporter lacks a part."""

    format: str = EXPORT_FORMAT
    version: int = EXPORT_VERSION
    namespace: Annotated[str, Meta(max_length=limits.NAMESPACE_CHARS_MAX)]
    node_id: NodeId
    created_at: Annotated[int, Meta(ge=0)]
    base: Vector
    heads: Vector
    entries: Annotated[int, Meta(ge=0)]
    unsigned: Annotated[int, Meta(ge=0)] = 0
    incomplete: tuple[NodeId, ...] = ()

    @property
    def is_full(self) -> bool:
        """Whether the export contains everything, not only what a receiver lacked."""
        return not self.base


class Trailer(Struct, frozen=True):
    """The last line."""

    sha256: str
    signature: str = ""


class _Version(Struct):
    format: str
    version: int


class _VectorFile(Struct):
    heads: Vector


@dataclass(frozen=True, slots=True)
class ExportFile:
    """An export that was read to its end and is complete."""

    path: Path
    header: ExportHeader


def parse_vector(text: str | bytes) -> Vector:
    """A version vector from the output of ``state vector --json`` or as ``{"<node id>": [seq, "<id>", end]}``.

    Raises UsageError.
    """
    try:
        if "heads" in msgspec.json.decode(text, type=dict[str, msgspec.Raw]):
            return msgspec.json.decode(text, type=_VectorFile).heads
        return msgspec.json.decode(text, type=Vector)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"this is not a version vector: {error}; `crabnet state vector --json` prints one", Reason.INVALID_ARGUMENT
        ) from None


def read_vector(files: Files, path: Path) -> Vector:
    """The version vector in a file. Raises UsageError, StorageFailedError."""
    with guarded("read the version vector", path):
        content = read_whole(files, path.resolve(), limits.EXPORT_HEADER_BYTES_MAX)
    if content is None:
        raise UsageError(f"there is no file {path}", Reason.INVALID_ARGUMENT)
    return parse_vector(content)


def encode_header(header: ExportHeader) -> bytes:
    """The first line."""
    return msgspec.json.encode(header) + b"\n"


def encode_trailer(sha256: str, signature: str) -> bytes:
    """The last line."""
    return json.dumps({"sha256": sha256, "signature": signature}, separators=(",", ":")).encode() + b"\n"


def _lines(files: Files, fd: int) -> Iterator[bytes]:
    """Lines with their line feed, and a last one without it. A line that is too long is cut and ends the iteration."""
    rest = b""
    line_bytes_max = limits.EXPORT_HEADER_BYTES_MAX
    for chunk in read_chunks(files, fd):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
            line_bytes_max = limits.ENVELOPE_BYTES_MAX
        if len(rest) > line_bytes_max:
            yield rest
            return
    if rest:
        yield rest


def looks_like_baseline(files: Files, path: Path) -> bool:
    """Whether a file can be a baseline's state.json, which names no format. Raises UsageError, StorageFailedError."""
    with guarded("read the file", path):
        if files.size(path) is None:
            raise UsageError(f"there is no file {path}", Reason.INVALID_ARGUMENT)
        with opened(files, path, OpenMode.READ) as fd:
            start = files.pread(fd, _SNIFF_BYTES, 0)
    return start.lstrip().startswith(b"{") and b'"format"' not in start


def check_export(files: Files, path: Path, namespace: str | None = None) -> ExportFile:
    """Read a file to its end and verify that it is complete and signed, before any of it is used.

    Raises RefusedError if the file is not an export, is unsigned, is of a newer version, or is of another namespace
    than ``namespace``. Raises DataDirDamagedError for damaged bytes, StorageFailedError if reading fails.
    """
    digest = hashlib.sha256()
    first = last = b""
    count = -2
    with guarded("read the export", path), opened(files, path, OpenMode.READ) as fd:
        for line in _lines(files, fd):
            if count == -2:
                first = line
                _refuse_newer(path, first)
            else:
                digest.update(last)
            _entry(line.removesuffix(b"\n"), path)
            last = line
            count += 1
    trailer = _trailer(path, first, last, digest.hexdigest(), whole=count >= 0)
    header = _header(path, first)
    if header.entries != count:
        raise _damaged(path, f"it contains {count} envelopes, but its header says {header.entries}")
    if not trailer.signature:
        raise RefusedError(f"{path} is not signed by its exporter; nothing was imported", Reason.MISSING_SIGNATURE)
    if not statement_holds(header.node_id, EXPORT_TYPE, trailer.sha256.encode(), trailer.signature):
        raise RefusedError(
            f"{path}: the signature is not by {header.node_id}; nothing was imported", Reason.BAD_SIGNATURE
        )
    if namespace is not None and header.namespace != namespace:
        raise RefusedError(
            f"{path} belongs to namespace {header.namespace!r}, this node to {namespace!r}; nothing was imported",
            Reason.WRONG_NAMESPACE,
        )
    return ExportFile(path, header)


def _refuse_newer(path: Path, line: bytes) -> None:
    """Raise RefusedError for a newer version, before reading parts that may have another meaning in it."""
    version = _version(path, line)
    if version > EXPORT_VERSION:
        raise RefusedError(
            f"{path} is an export of version {version} of a newer Crabnet; this one reads up to version"
            f" {EXPORT_VERSION}; upgrade, or get the file again if its first line is damaged; nothing was imported",
            Reason.UNSUPPORTED_VERSION,
        )


def _damaged(path: Path, detail: str) -> DataDirDamagedError:
    return DataDirDamagedError(f"{path}: {detail}; nothing was imported; get the file again", Reason.FILE_DAMAGED)


def _trailer(path: Path, first: bytes, line: bytes, sha256: str, *, whole: bool) -> Trailer:
    try:
        trailer = msgspec.json.decode(line, type=Trailer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        trailer = None
    if trailer is None or not whole or not line.endswith(b"\n"):
        _version(path, first)
        raise _damaged(path, "its last line is not that of an export, so the file is cut off")
    if line != encode_trailer(trailer.sha256, trailer.signature) or trailer.sha256 != sha256:
        raise _damaged(path, "its checksum does not match")
    return trailer


def _version(path: Path, line: bytes) -> int:
    """The version in a first line. Raises RefusedError if the line is not that of an export."""
    try:
        said = msgspec.json.decode(line, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    if said is None or said.format != EXPORT_FORMAT:
        raise RefusedError(f"{path} is not an export of Crabnet", Reason.MALFORMED)
    return said.version


def _header(path: Path, line: bytes) -> ExportHeader:
    try:
        header = msgspec.json.decode(line, type=ExportHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path}: its first line is not valid: {error}", Reason.MALFORMED) from None
    if header.version != EXPORT_VERSION:
        raise RefusedError(f"{path}: no Crabnet writes version {header.version}", Reason.UNSUPPORTED_VERSION)
    return header


class _FactLine(msgspec.Struct, forbid_unknown_fields=True):
    fact: UnsignedFact


_FACT_START: Final = b'{"fact":'


def fact_line(fact: Fact) -> bytes:
    """An entry of an export for an unsigned fact of a baseline state, which has no envelope."""
    body = msgspec.to_builtins(fact.body)
    return msgspec.json.encode(_FactLine(UnsignedFact(kind=fact.kind, author=fact.author, ts=fact.ts, body=body)))


def _entry(line: bytes, path: Path) -> bytes | Fact:
    """An envelope unchanged, or a fact. Raises DataDirDamagedError (FILE_DAMAGED)."""
    if not line.startswith(_FACT_START):
        return line
    try:
        fact = fact_of(msgspec.json.decode(line, type=_FactLine).fact)
    except msgspec.MsgspecError as error:
        raise DataDirDamagedError(f"{path} has a fact that cannot be read: {error}", Reason.FILE_DAMAGED) from error
    if fact is None:
        raise DataDirDamagedError(f"{path} contains a fact whose content does not match its kind", Reason.FILE_DAMAGED)
    return fact


def read_entries(files: Files, export: ExportFile) -> Iterator[bytes | Fact]:
    """The envelopes and unsigned facts of a checked export.

    Raises StorageFailedError, DataDirDamagedError (FILE_DAMAGED).
    """
    with guarded("read the export", export.path), opened(files, export.path, OpenMode.READ) as fd:
        for number, line in enumerate(_lines(files, fd)):
            if number > export.header.entries:
                return
            if number:
                yield _entry(line.removesuffix(b"\n"), export.path)
