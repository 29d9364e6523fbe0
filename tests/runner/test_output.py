"""Captured output: bounded text, and a hash over everything."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from base64 import b64decode
from io import BytesIO
from typing import IO

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.runner.output import OutputCapture, Stream, decode_text, truncation_marker

CHUNKS = st.lists(st.tuples(st.sampled_from(Stream), st.binary(max_size=40)), max_size=30)


@given(CHUNKS, st.integers(0, 200), st.integers(1, 400))
def test_any_interleaving_gives_the_hash_of_stdout_then_stderr(
    chunks: list[tuple[Stream, bytes]], text_bytes_max: int, total_bytes_max: int
) -> None:
    capture = OutputCapture(text_bytes_max, total_bytes_max, BytesIO)
    raw = dict.fromkeys(Stream, b"")
    left = total_bytes_max
    cut: set[Stream] = set()
    for stream, chunk in chunks:
        taken = chunk[:left]
        left -= len(taken)
        raw[stream] += taken
        if taken != chunk:
            cut.add(stream)
        assert capture.feed(stream, chunk) is (taken == chunk)

    captured = capture.finish()

    assert captured.output_hash == hashlib.sha256(raw[Stream.STDOUT] + raw[Stream.STDERR]).hexdigest()
    for stream, text in ((Stream.STDOUT, captured.stdout), (Stream.STDERR, captured.stderr)):
        assert text.raw_bytes == len(raw[stream])
        assert text.truncated is (len(raw[stream]) > text_bytes_max or stream in cut)
        if not text.truncated:
            assert text.text == raw[stream].decode(errors="replace")


@given(st.binary(max_size=400), st.integers(0, 400))
@example("é".encode() * 100, 121)
def test_cut_text_is_a_beginning_with_a_marker_within_the_bound(raw: bytes, text_bytes_max: int) -> None:
    text = decode_text(raw, len(raw), text_bytes_max)
    marker = truncation_marker(len(raw))

    assert len(text.text) <= max(text_bytes_max, len(marker))
    if text.truncated:
        assert text.text.endswith(marker)
        assert raw.decode(errors="replace").startswith(text.text.removesuffix(marker))


def test_a_character_is_never_cut_in_half() -> None:
    raw = "🦀".encode() * 1_000

    for text_bytes_max in range(100, 110):
        text = decode_text(raw, len(raw), text_bytes_max)
        assert text.text.removesuffix(truncation_marker(len(raw))).strip("🦀") == ""


def test_invalid_bytes_become_replacement_characters_and_nul_stays() -> None:
    assert decode_text(b"a\xffb\0c\xc3", 6, 100).text == "a\ufffdb\0c\ufffd"


@pytest.mark.parametrize("byte", [b"x", b"\0", b"\xff", b'"', b"\x1b"])
def test_two_streams_always_fit_in_an_envelope(byte: bytes) -> None:
    raw_bytes = 10 * 1024 * 1024
    text = decode_text(byte * limits.OUTPUT_CHARS_MAX, raw_bytes, limits.RUNNER_OUTPUT_BYTES_MAX_DEFAULT)

    assert text.truncated
    assert len(text.text) <= limits.OUTPUT_CHARS_MAX
    assert 2 * len(msgspec.json.encode(text.text)) < limits.ENVELOPE_BYTES_MAX - 16 * 1024
    assert text.text.endswith(truncation_marker(raw_bytes))


def test_output_that_only_its_escapes_make_too_long_is_marked() -> None:
    raw = b"\0" * 100_000

    text = decode_text(raw, len(raw), limits.RUNNER_OUTPUT_BYTES_MAX_DEFAULT)

    assert text.truncated
    assert text.text.startswith("\0" * 30_000)


def test_output_of_exactly_the_bound_is_whole() -> None:
    assert decode_text(b"x" * 1_000, 1_000, 1_000).text == "x" * 1_000
    assert decode_text(b"x" * 1_000, 1_001, 1_000).truncated


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"text \xc3", bytes(range(256)) * 400])
def test_bytes_that_are_no_text_are_kept_as_they_are(raw: bytes) -> None:
    kept = decode_text(raw, len(raw), limits.RUNNER_OUTPUT_BYTES_MAX_DEFAULT)
    assert b64decode(kept.base64) == raw
    assert not kept.truncated
    assert len(kept.base64) <= limits.OUTPUT_BASE64_CHARS_MAX
    assert decode_text("text é".encode(), 7, 100).base64 == ""


def test_a_character_that_the_bound_cuts_makes_no_bytes_of_a_text() -> None:
    assert decode_text(("x" * 99 + "é").encode()[:100], 5_000, 100).base64 == ""
    cut = decode_text(b"\xff" * 100, 5_000, 100)
    assert (b64decode(cut.base64), cut.truncated) == (b"\xff" * 100, True)


class _Disk(BytesIO):
    """Takes ``room`` bytes, at most seven at a time, and gives back all but ``lost`` of them."""

    def __init__(self, room: int, lost: int = 0) -> None:
        super().__init__()
        self._room = room
        self._lost = lost

    def write(self, data: object, /) -> int:
        taken = bytes(data)[: min(7, self._room)]  # type: ignore[call-overload]
        if not taken:
            raise OSError(errno.ENOSPC, "no space left")
        self._room -= len(taken)
        return super().write(taken)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self.truncate(self.tell() - self._lost)
        return super().seek(offset, whence)


def no_file() -> IO[bytes]:
    raise PermissionError(errno.EACCES, "not here")


@pytest.mark.parametrize("room", [None, 0, 20, 1_000_000])
def test_much_stderr_goes_to_a_file_and_stays_in_memory_when_the_disk_is_full(room: int | None) -> None:
    chunks = [bytes([number]) * 1_000 for number in range(200)]
    capture = OutputCapture(500, 10_000_000, no_file if room is None else lambda: _Disk(room))

    for chunk in chunks:
        assert capture.feed(Stream.STDERR, chunk)
        assert capture.feed(Stream.STDOUT, b"out")
        capture.spill()
    captured = capture.finish()
    capture.close()

    assert captured.output_hash == hashlib.sha256(b"out" * 200 + b"".join(chunks)).hexdigest()
    assert captured.stderr.raw_bytes == 200_000
    assert captured.stderr.text.startswith("\0" * 400)


def test_output_that_the_disk_lost_has_no_result() -> None:
    capture = OutputCapture(500, 10_000, lambda: _Disk(1_000, lost=1))
    capture.feed(Stream.STDERR, b"error" * 20)
    capture.spill()

    with pytest.raises(OSError, match="shorter"):
        capture.finish()


def test_little_stderr_needs_no_file() -> None:
    capture = OutputCapture(500, 2 * limits.RUNNER_SPOOL_MEMORY_BYTES, tempfile.TemporaryFile)

    capture.feed(Stream.STDERR, b"x" * limits.RUNNER_SPOOL_MEMORY_BYTES)
    assert not capture.overfull
    capture.feed(Stream.STDERR, b"y")
    assert capture.overfull
