"""Captured output: bounded text, and a hash over everything."""

from __future__ import annotations

import hashlib
from base64 import b64decode

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
    capture = OutputCapture(text_bytes_max, total_bytes_max)
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
