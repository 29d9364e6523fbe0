"""Capturing the output of a command in bounded memory, with a hash of all of it. Pure."""

from __future__ import annotations

import codecs
import errno
import hashlib
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import IO

import msgspec

from crabnet import limits


class Stream(Enum):
    """One of the two output streams of a command."""

    STDOUT = auto()
    STDERR = auto()


@dataclass(frozen=True, slots=True)
class CapturedText:
    """One stream as text, and its size in bytes. ``base64`` has the kept bytes if they are not UTF-8, else nothing."""

    text: str
    truncated: bool
    raw_bytes: int
    base64: str = ""


@dataclass(frozen=True, slots=True)
class CapturedOutput:
    """Both streams, and the SHA-256 over all raw bytes: stdout, then stderr."""

    stdout: CapturedText
    stderr: CapturedText
    output_hash: str


def truncation_marker(raw_bytes: int) -> str:
    """Return the last line of a truncated text."""
    return f"\n[crabnet: output truncated, {raw_bytes} bytes received]\n"


def decode_text(head: bytes, raw_bytes: int, text_bytes_max: int, *, more_followed: bool = False) -> CapturedText:
    """Turn the first bytes of a stream into text that fits into a result. Truncated text ends with a marker.

    ``head`` is the beginning of ``raw_bytes`` bytes. ``more_followed`` says that more bytes came but were not taken.
    The text has at most ``text_bytes_max`` and at most ``limits.OUTPUT_CHARS_MAX`` characters, including the marker.
    As a JSON string it has at most ``limits.RUNNER_OUTPUT_JSON_BYTES_MAX`` bytes, because escapes can make it six times
    as long. If ``text_bytes_max`` is less than the marker, truncated text is only the marker. A character is never cut.
    """
    chars_max = min(text_bytes_max, limits.OUTPUT_CHARS_MAX)
    if len(head) == raw_bytes <= chars_max and not more_followed:
        text = head.decode("utf-8", errors="replace")
        base64 = _base64_unless_text(head, final=True)
        if base64 or _json_bytes(text) <= limits.RUNNER_OUTPUT_JSON_BYTES_MAX:
            return CapturedText(text, False, raw_bytes, base64)
    marker = truncation_marker(raw_bytes)
    kept = head[: max(0, chars_max - len(marker))]
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(kept, final=False)
    text = _cut_json(text, limits.RUNNER_OUTPUT_JSON_BYTES_MAX - _json_bytes(marker))
    return CapturedText(text + marker, True, raw_bytes, _base64_unless_text(head[:chars_max], final=False))


def _base64_unless_text(raw: bytes, *, final: bool) -> str:
    """Return the bytes in base64, empty if they are UTF-8. Unless ``final``, the last character may be incomplete."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw, final=final)
    except UnicodeDecodeError:
        return b64encode(raw).decode()
    return ""


def _json_bytes(text: str) -> int:
    return len(msgspec.json.encode(text))


def _cut_json(text: str, json_bytes_max: int) -> str:
    """Return the longest beginning of ``text`` that has at most ``json_bytes_max`` bytes as a JSON string."""
    if _json_bytes(text) <= json_bytes_max:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _json_bytes(text[:middle]) <= json_bytes_max:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


class OutputCapture:
    """Captures both streams in any interleaving, and at most ``total_bytes_max`` bytes of the two.

    stdout is hashed as it comes. stderr must be hashed after stdout, so its raw bytes are kept until the end: a few in
    memory, the rest in a file. ``spill`` moves bytes to the file. ``make_file`` must make it without buffering.
    """

    def __init__(self, text_bytes_max: int, total_bytes_max: int, make_file: Callable[[], IO[bytes]]) -> None:
        self._text_bytes_max = text_bytes_max
        self._head_bytes_max = min(text_bytes_max, limits.OUTPUT_CHARS_MAX)
        self._left = total_bytes_max
        self._make_file = make_file
        self._hash = hashlib.sha256()
        self._raw_bytes = dict.fromkeys(Stream, 0)
        self._heads = {stream: bytearray() for stream in Stream}
        self._file: IO[bytes] | None = None
        self._file_bytes = 0
        self._file_takes = True
        self._waiting = bytearray()
        """The bytes of stderr that follow those in the file."""
        self._cut: set[Stream] = set()

    def feed(self, stream: Stream, chunk: bytes) -> bool:
        """Take ``chunk``. Returns False when the bound is reached and a part of it was not taken.

        That part is neither hashed nor counted.
        """
        taken = chunk[: self._left]
        self._left -= len(taken)
        if stream is Stream.STDOUT:
            self._hash.update(taken)
        else:
            self._waiting += taken
        self._raw_bytes[stream] += len(taken)
        head = self._heads[stream]
        head += taken[: self._head_bytes_max - len(head)]
        if len(taken) < len(chunk):
            self._cut.add(stream)
            return False
        return True

    @property
    def overfull(self) -> bool:
        """True if there are enough waiting bytes for ``spill``."""
        return self._file_takes and len(self._waiting) > limits.RUNNER_SPOOL_MEMORY_BYTES

    def spill(self) -> None:
        """Move the waiting bytes to the file. Blocks: call it in a thread, and feed no stderr meanwhile.

        If writing to the file fails, the remaining bytes and all later ones stay in memory. So a full disk of the
        worker does not end a run.
        """
        try:
            if self._file is None:
                self._file = self._make_file()
            while self._waiting:
                written = self._file.write(self._waiting)
                self._file_bytes += written
                del self._waiting[:written]
        except OSError:
            self._file_takes = False

    def head(self, stream: Stream) -> bytes:
        """Return the beginning of a stream: the bytes so far that are kept for its text."""
        return bytes(self._heads[stream])

    def finish(self) -> CapturedOutput:
        """Return the result. Call it once, in a thread: hashing 64 MiB of stderr takes tenths of a second.

        Raises OSError when the file does not return the bytes that were written to it.
        """
        if self._file is not None:
            self._hash_file(self._file)
        self._hash.update(self._waiting)
        stdout, stderr = (
            decode_text(
                self.head(stream), self._raw_bytes[stream], self._text_bytes_max, more_followed=stream in self._cut
            )
            for stream in (Stream.STDOUT, Stream.STDERR)
        )
        return CapturedOutput(stdout, stderr, self._hash.hexdigest())

    def _hash_file(self, file: IO[bytes]) -> None:
        file.seek(0)
        left = self._file_bytes
        while left:
            chunk = file.read(min(left, limits.STORAGE_CHUNK_BYTES))
            if not chunk:
                raise OSError(errno.EIO, "the file with the output is shorter than the bytes written to it")
            self._hash.update(chunk)
            left -= len(chunk)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
