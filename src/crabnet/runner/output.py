"""Capturing the output of a command in bounded memory, hashing all of it. Pure."""

from __future__ import annotations

import codecs
import hashlib
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum, auto

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

    stdout is hashed as it comes. stderr must be hashed after it, so its raw bytes are held until the end: in
    memory, because a temporary file would add a way to fail (a full disk) without lowering the bound.
    """

    def __init__(self, text_bytes_max: int, total_bytes_max: int) -> None:
        self._text_bytes_max = text_bytes_max
        self._head_bytes_max = min(text_bytes_max, limits.OUTPUT_CHARS_MAX)
        self._left = total_bytes_max
        self._hash = hashlib.sha256()
        self._stdout_bytes = 0
        self._stdout_head = bytearray()
        self._stderr = bytearray()
        self._cut: set[Stream] = set()

    def feed(self, stream: Stream, chunk: bytes) -> bool:
        """Take ``chunk``; False when not all of it could be taken, because the bound is reached.

        What was not taken is neither hashed nor counted.
        """
        taken = chunk[: self._left]
        self._left -= len(taken)
        if stream is Stream.STDOUT:
            self._hash.update(taken)
            self._stdout_bytes += len(taken)
            self._stdout_head += taken[: self._head_bytes_max - len(self._stdout_head)]
        else:
            self._stderr += taken
        if len(taken) < len(chunk):
            self._cut.add(stream)
            return False
        return True

    def head(self, stream: Stream) -> bytes:
        """What came of a stream so far, at most what is kept of it."""
        return bytes(self._stdout_head if stream is Stream.STDOUT else self._stderr[: self._head_bytes_max])

    def finish(self) -> CapturedOutput:
        """The result, once. Hashes stderr, which takes tenths of a second for 64 MiB: call it in a thread."""
        self._hash.update(self._stderr)
        stdout, stderr = (
            decode_text(
                bytes(raw[: self._head_bytes_max]), raw_bytes, self._text_bytes_max, more_followed=stream in self._cut
            )
            for stream, raw, raw_bytes in (
                (Stream.STDOUT, self._stdout_head, self._stdout_bytes),
                (Stream.STDERR, self._stderr, len(self._stderr)),
            )
        )
        return CapturedOutput(stdout, stderr, self._hash.hexdigest())
