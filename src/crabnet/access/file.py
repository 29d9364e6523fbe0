"""The file ``tokens.json`` of a data dir: mode 0600, replaced atomically, written only by who holds the data dir.

A file that is damaged, of a newer version, or open to other users grants nothing until somebody has repaired it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.access.tokens import Token, Tokens
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.storage.files import Files, OpenMode, RealFiles, guarded, opened, read_chunks, replace_file

TOKENS_FILE: Final = "tokens.json"
_FORMAT: Final = "crabnet-tokens-1"
_FAMILY: Final = "crabnet-tokens-"
_WIDER_THAN_OWNER: Final = stat.S_IRWXG | stat.S_IRWXO
_REMEDY: Final = "nobody can use a token until then; restore the file, or move it away and make new tokens"


class _Head(Struct, frozen=True):
    format: str


class _Stored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    tokens: Annotated[tuple[Token, ...], Meta(max_length=limits.TOKENS_MAX + limits.TOKENS_OVER_MAX)]


class TokenFile:
    """Reads and replaces the file. Methods block."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self.path = data_dir / TOKENS_FILE

    def read(self) -> Tokens:
        """The tokens; none if there is no file.

        Raises DataDirDamagedError for a file that cannot be trusted, StorageFailedError for one that cannot be read.
        """
        with guarded("read the tokens", self.path):
            try:
                with opened(self._files, self.path, OpenMode.READ) as fd:
                    _demand_private(self.path, os.fstat(fd))
                    content = self._content(fd)
            except FileNotFoundError:
                return ()
        return _decoded(self.path, content)

    def _content(self, fd: int) -> bytes:
        content = bytearray()
        for chunk in read_chunks(self._files, fd):
            content += chunk
            if len(content) > limits.TOKENS_FILE_BYTES_MAX:
                raise _damaged(self.path, f"it has more than {limits.TOKENS_FILE_BYTES_MAX} bytes")
        return bytes(content)

    def write(self, tokens: Tokens) -> None:
        """Replace the file durably. Raises StorageFailedError; then the old file or the new one is there, whole."""
        content = msgspec.json.encode(_Stored(format=_FORMAT, tokens=tokens)) + b"\n"
        with guarded("write the tokens", self.path):
            replace_file(self._files, self.path, content)

    def mark(self) -> tuple[int, ...] | None:
        """Differs whenever the file does; None if there is none. Raises StorageFailedError."""
        with guarded("read the tokens", self.path):
            try:
                found = self.path.stat(follow_symlinks=False)
            except FileNotFoundError:
                return None
        return (found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)


class TokenReader:
    """The tokens as the file has them now. It looks at the file each time, and reads it when it has changed."""

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        self._mark: tuple[int, ...] | None = None
        self._read: Tokens | CrabnetError = ()

    def tokens(self) -> Tokens:
        """Blocks, usually for one ``stat``. Raises as ``TokenFile.read``."""
        mark = self._file.mark()
        if mark is None:
            self._mark, self._read = None, ()
        elif mark != self._mark:
            try:
                self._read = self._file.read()
            except DataDirDamagedError as error:
                self._read = error
            self._mark = mark
        if isinstance(self._read, CrabnetError):
            raise self._read
        return self._read


def token_reader(data_dir: Path) -> TokenReader:
    """The reader for a process that only reads."""
    return TokenReader(TokenFile(RealFiles(), data_dir))


def _demand_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _damaged(path, "it is not a regular file")
    if found.st_mode & _WIDER_THAN_OWNER:
        raise DataDirDamagedError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}: other users can access it; if nobody has changed it,"
            f" run chmod 600 on it; {_REMEDY}",
            Reason.UNSAFE_PERMISSIONS,
        )
    if found.st_uid not in {0, os.geteuid()}:
        raise DataDirDamagedError(
            f"{path} belongs to the user {found.st_uid}, not to this one; {_REMEDY}", Reason.UNSAFE_PERMISSIONS
        )


def _decoded(path: Path, content: bytes) -> Tokens:
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format != _FORMAT:
            if head.format.startswith(_FAMILY):
                raise DataDirDamagedError(
                    f"{path} has the format {head.format[:64]!r} of another version of crabnet; this version reads"
                    f" {_FORMAT!r}; {_REMEDY}",
                    Reason.DATA_DIR_NEWER,
                )
            raise _damaged(path, f"it has the format {head.format[:64]!r}")
        tokens = msgspec.json.decode(content, type=_Stored).tokens
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, str(error)) from None
    for field in ("name", "sha256"):
        if len({getattr(token, field) for token in tokens}) != len(tokens):
            raise _damaged(path, f"two tokens have the same {field}")
    return tokens


def _damaged(path: Path, detail: str) -> DataDirDamagedError:
    return DataDirDamagedError(f"{path} is damaged: {detail}; {_REMEDY}")
