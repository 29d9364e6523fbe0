"""Capturing the output of a command in bounded memory, hashing all of it. Pure."""

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
    """One stream as text, and how much there was of it; ``base64`` of what was kept, if the text does not hold it."""

    text: str
    truncated: bool
    raw_bytes: int
    base64: str = ""


@dataclass(frozen=True, slots=True)
class CapturedOutput:
    """Both streams, and the hash over all raw bytes: stdout, then stderr."""

    stdout: CapturedText
    stderr: CapturedText
    output_hash: str


def truncation_marker(raw_bytes: int) -> str:
    """The last line of a text that was cut."""
    return f"\n[crabnet: output truncated, {raw_bytes} bytes received]\n"


def decode_text(head: bytes, raw_bytes: int, text_bytes_max: int, *, more_followed: bool = False) -> CapturedText:
    """Turn the first bytes of a stream into text that fits into a result, marked when it was cut.

    ``head`` is the beginning of ``raw_bytes`` bytes; ``more_followed`` says that others came but were not taken.
    The text has at most ``text_bytes_max`` and at most
    ``limits.OUTPUT_CHARS_MAX`` characters, the marker included, and as a JSON string at most
    ``limits.RUNNER_OUTPUT_JSON_BYTES_MAX`` bytes: escapes can make it six times as long. Only a
    ``text_bytes_max`` shorter than the marker is exceeded, by the marker alone. A character is never cut.
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
    """Empty for UTF-8; if not ``final``, its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(raw, final=final)
    except UnicodeDecodeError:
        return b64encode(raw).decode()
    return ""


def _json_bytes(text: str) -> int:
    return len(msgspec.json.encode(text))


def _cut_json(text: str, json_bytes_max: int) -> str:
    """The longest beginning of ``text`` that as a JSON string has at most ``json_bytes_max`` bytes."""
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
    """Takes both streams as they come, in any interleaving, and at most ``total_bytes_max`` bytes of them.

    stdout is hashed as it comes. stderr must be hashed after it, so its raw bytes wait until the end: a few in memory,
    and what ``spill`` takes in a file, which ``make_file`` makes without buffering.
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
        """Of stderr, what follows the bytes in the file."""
        self._cut: set[Stream] = set()

    def feed(self, stream: Stream, chunk: bytes) -> bool:
        """Take ``chunk``; False when not all of it could be taken, because the bound is reached.

        What was not taken is neither hashed nor counted.
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
        """Whether ``spill`` has something to do."""
        return self._file_takes and len(self._waiting) > limits.RUNNER_SPOOL_MEMORY_BYTES

    def spill(self) -> None:
        """Move the waiting bytes to the file. Blocks: call it in a thread, and feed no stderr meanwhile.

        What a file does not take stays in memory, and all that follows it: a full disk of the worker ends no run.
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
        """What came of a stream so far, at most what is kept of it."""
        return bytes(self._heads[stream])

    def finish(self) -> CapturedOutput:
        """The result, once. Hashes stderr, which takes tenths of a second for 64 MiB: call it in a thread.

        Raises OSError when the file does not give back what was written to it.
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
                raise OSError(errno.EIO, "the file of the output is shorter than what was written to it")
            self._hash.update(chunk)
            left -= len(chunk)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
