"""A note outside of the data dir about the last envelope of a feed. It reveals a data dir that was restored (ADR 6).

The note is written in place and not synced. It may be behind the durable feed, but never ahead of it.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from crabnet.storage.files import Files, OpenMode, make_dir, read_whole, write_all
from crabnet.storage.origin import Place, place_of, touched

_FEEDS: Final = "feeds"
_FILE_BYTES: Final = 512
"""Every note is padded to this size, so that a shorter note overwrites a longer one completely."""
_NAMESPACE_DIGITS: Final = 16


class Mark(Struct, frozen=True, kw_only=True):
    """The last envelope that this user has sent for a feed. ``place`` is the place of the note's own file."""

    namespace: str
    seq: int
    id: str
    place: Place


class HighWater:
    """The note about one feed in ``state_dir``.

    Methods block. They raise nothing, because the note is only one safeguard among others: ``trouble`` holds the last
    error.
    """

    def __init__(self, files: Files, state_dir: Path | None, node_id: str, namespace: str) -> None:
        """Without ``state_dir`` no note is kept."""
        digest = hashlib.sha256(namespace.encode()).hexdigest()[:_NAMESPACE_DIGITS]
        self.path = None if state_dir is None else state_dir / _FEEDS / f"{node_id}-{digest}"
        self.trouble = "" if self.path else "no home directory is known: set state_dir"
        self._files = files
        self._namespace = namespace
        self._fd: int | None = None
        self._place: Place | None = None

    def read(self) -> Mark | None:
        """Return the note, None if there is no readable one for this namespace."""
        if self.path is None:
            return None
        try:
            content = read_whole(self._files, self.path, _FILE_BYTES)
            mark = None if content is None else msgspec.json.decode(content, type=Mark)
        except OSError as error:
            self._failed("read", error)
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return mark if mark is not None and mark.namespace == self._namespace else None

    def is_original(self, mark: Mark) -> bool:
        """False if the file with this note is itself a copy, or cannot be examined."""
        if self.path is None:
            return False
        try:
            place = place_of(self.path)
            return place is not None and place.may_be(mark.place) and not touched(self.path)
        except OSError:
            return False

    def keep(self, seq: int, envelope_id: str) -> None:
        """Note ``seq`` and ``envelope_id`` as the last envelope of the feed."""
        if self.path is None:
            return
        try:
            if self._fd is None:
                make_dir(self._files, self.path.parent)
                self._fd = self._files.open(self.path, OpenMode.LOCK)
                self._place = place_of(self.path)
            place = self._place or Place(0, 0)
            mark = Mark(namespace=self._namespace, seq=seq, id=envelope_id, place=place)
            write_all(self._files, self._fd, msgspec.json.encode(mark).ljust(_FILE_BYTES - 1) + b"\n", 0)
        except OSError as error:
            self._failed("write", error)
        else:
            self.trouble = ""

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with suppress(OSError):  # harmless: the kernel already has all that was written
                self._files.close(fd)

    def _failed(self, what: str, error: OSError) -> None:
        self.trouble = f"cannot {what} {self.path}: {error.strerror or error}"
