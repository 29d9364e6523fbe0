"""The directory ``quarantine/`` in a data dir. It holds messages that caused an unexpected error, each with its
traceback, and the hashes of messages on which a node has failed. Its size is bounded. A node needs nothing in it, so an
operator may remove any of it.
"""

from __future__ import annotations

import hashlib
import traceback
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from crabnet import __version__, limits
from crabnet.core.mending import Fault, hash_of
from crabnet.storage.files import Files, OpenMode, make_dir, opened, read_whole, replace_file, write_all

DIRECTORY: Final = "quarantine"
CONDEMNED_FILE: Final = "refused.json"
_FORMAT: Final = "crabnet-refused-1"
_HASH_CHARS: Final = 16
_SUFFIX: Final = ".json"
_UNFINISHED: Final = ".tmp"


class _Condemned(Struct, frozen=True, kw_only=True):
    format: str
    refused: list[str] = []
    suspects: list[str] = []


def kept_faults(files: Files, data_dir: Path) -> int:
    """How many faults the directory holds, of this start and earlier ones. 0 if it cannot be read."""
    try:
        names = files.listdir(data_dir / DIRECTORY)
    except OSError:
        return 0
    return sum(name.endswith(_SUFFIX) and name != CONDEMNED_FILE for name in names)


class Quarantine:
    """The kept faults and the lists of hashes. Methods block and raise ``OSError``; the caller goes on after one."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self.path = data_dir / DIRECTORY
        self.refused: list[str] = []
        """Hashes of messages on which a node has failed, oldest first."""
        self.suspects: list[str] = []
        """Hashes of messages that were in a failed commit together. One of them caused the failure."""
        self._kept: OrderedDict[str, int] = OrderedDict()
        """File name -> size in bytes, for each kept fault, oldest first."""
        self._keys: dict[str, str] = {}

    def load(self) -> str:
        """Read the directory. Returns what is wrong with the list of hashes, "" if nothing is."""
        for name in self._files.listdir(self.path):
            if name.endswith(_UNFINISHED):
                self._files.unlink(self.path / name)
            if name == CONDEMNED_FILE or not name.endswith(_SUFFIX):
                continue
            self._note(name, self._files.size(self.path / name) or 0)
        content = read_whole(self._files, self.path / CONDEMNED_FILE, limits.CONDEMNED_FILE_BYTES_MAX)
        if content is None:
            return ""
        try:
            stored = msgspec.json.decode(content, type=_Condemned)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return f"{self.path / CONDEMNED_FILE} is damaged and not used: {error}"
        if stored.format != _FORMAT:
            return f"{self.path / CONDEMNED_FILE} has format {stored.format[:64]!r}, not {_FORMAT}; it is not used"
        self.refused = stored.refused[-limits.CONDEMNED_MAX :]
        self.suspects = stored.suspects[-limits.CONDEMNED_MAX :]
        return ""

    def keep(self, fault: Fault, at_ms: int) -> str:
        """Keep a fault. Returns the name of its file; if the same fault was kept before, that of the earlier file."""
        text = _text_of(fault.error)
        key = _key_of(fault, text)
        held = self._keys.get(key)
        if held is not None:
            return held
        name = f"{at_ms:013d}-{key}{_SUFFIX}"
        content = msgspec.json.encode(
            {
                "at_ms": at_ms,
                "version": __version__,
                "part": fault.part,
                "error": type(fault.error).__name__,
                "source": fault.source,
                "sha256": hash_of(fault.message),
                "bytes": len(fault.message),
                "traceback": text,
                "message": b64encode(fault.message).decode(),
            }
        )
        make_dir(self._files, self.path)
        self._make_room(len(content))
        # No sync is needed: at worst a power cut leaves an unreadable file.
        temporary = self.path / (name + _UNFINISHED)
        with opened(self._files, temporary, OpenMode.REPLACE) as fd:
            write_all(self._files, fd, content, 0)
        self._files.rename(temporary, self.path / name)
        self._note(name, len(content))
        return name

    def _note(self, name: str, size: int) -> None:
        self._kept[name] = size
        self._keys[_key_in(name)] = name

    def _make_room(self, size: int) -> None:
        while self._kept and (
            len(self._kept) >= limits.QUARANTINE_FILES_MAX
            or sum(self._kept.values()) + size > limits.QUARANTINE_BYTES_MAX
        ):
            oldest, _ = self._kept.popitem(last=False)
            self._keys.pop(_key_in(oldest), None)
            try:
                self._files.unlink(self.path / oldest)
            except FileNotFoundError:
                continue

    def condemn(self, messages: Iterable[bytes], suspects: Iterable[bytes]) -> None:
        """Remember durably the messages to refuse, and the suspects, which are to be committed alone."""
        self.refused = _added(self.refused, messages)
        self.suspects = _added(self.suspects, suspects)
        make_dir(self._files, self.path)
        content = msgspec.json.encode(_Condemned(format=_FORMAT, refused=self.refused, suspects=self.suspects))
        replace_file(self._files, self.path / CONDEMNED_FILE, content + b"\n")


def _added(hashes: list[str], messages: Iterable[bytes]) -> list[str]:
    return list(dict.fromkeys([*hashes, *map(hash_of, messages)]))[-limits.CONDEMNED_MAX :]


def _text_of(error: BaseException) -> str:
    """The end of the traceback. Formatting it may fail, because the error's own code makes its text."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as failed:  # noqa: BLE001 - the error's own code runs here
        text = f"{type(error).__name__}, whose traceback cannot be written: {type(failed).__name__}"
    return text[-limits.FAULT_TEXT_CHARS :]


def _key_of(fault: Fault, text: str) -> str:
    """A key that is equal for the same message in the same part; without a message, for the same traceback."""
    subject = fault.message or text.encode(errors="surrogatepass")
    return hashlib.sha256(fault.part.encode() + b"\0" + subject).hexdigest()[:_HASH_CHARS]


def _key_in(name: str) -> str:
    return name.removesuffix(_SUFFIX).rpartition("-")[2]
