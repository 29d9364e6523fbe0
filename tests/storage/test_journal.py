"""Frames and segments: what is written is read, and whatever else lies there is never taken for it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabnet import limits
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.reading import HeaderKind, TailKind, frames_of, read_frame_at, scan_segment
from crabnet.storage.journal.segment import (
    FRAME_OVERHEAD_BYTES,
    GENESIS_HASH,
    HEADER_BYTES,
    FramePosition,
    encode_frame,
    encode_header,
    hash_line,
    parse_frame,
)
from crabnet.storage.layout import segment_first_lsn, segment_name

FILES = RealFiles()
DOCUMENT = Path(__file__).parents[2] / "docs" / "STORAGE.md"
payloads = st.binary(min_size=1, max_size=300).filter(lambda data: b"\n" not in data)


def segment(contents: list[bytes], first_lsn: int = 1, previous_hash: str = GENESIS_HASH) -> bytes:
    lines = [encode_header(first_lsn, previous_hash)]
    for number, content in enumerate(contents):
        line = encode_frame(first_lsn + number, previous_hash, content)
        previous_hash = hash_line(line)
        lines.append(line)
    return b"".join(lines)


def scan(content: bytes, first_lsn: int = 1, resume_max_lsn: int = 0) -> tuple[object, ...]:
    seen: list[bytes] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / segment_name(first_lsn)
        path.write_bytes(content)
        found = scan_segment(
            FILES, path, first_lsn, resume_max_lsn=resume_max_lsn, visit=lambda frame: seen.append(frame.payload)
        )
    return found.header, found.tail, found.end, seen


@given(st.lists(payloads, max_size=8), st.integers(1, 2**62))
def test_what_is_written_is_read(contents: list[bytes], first_lsn: int) -> None:
    content = segment(contents, first_lsn)
    assert scan(content, first_lsn) == (HeaderKind.OK, TailKind.CLEAN, len(content), contents)


@given(st.lists(payloads, min_size=1, max_size=4), st.data())
def test_a_cut_segment_gives_a_prefix(contents: list[bytes], data: st.DataObject) -> None:
    content = segment(contents)
    length = data.draw(st.integers(HEADER_BYTES, len(content) - 1))
    header, tail, end, seen = scan(content[:length])
    assert header is HeaderKind.OK
    assert isinstance(seen, list)
    assert seen == contents[: len(seen)]
    assert tail is (TailKind.CLEAN if end == length else TailKind.TORN)


@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_no_frames(garbage: bytes) -> None:
    content = segment([b"[1]"])
    header, tail, end, seen = scan(content + garbage)
    assert (header, end, seen) == (HeaderKind.OK, len(content), [b"[1]"])
    assert tail is (TailKind.TORN if garbage else TailKind.CLEAN)
    assert scan(garbage)[0] is not HeaderKind.OK
    assert parse_frame(garbage, 0, 1) is None


@given(st.lists(payloads, min_size=3, max_size=5), st.data())
def test_a_changed_bit_before_the_last_frame_is_damage(contents: list[bytes], data: st.DataObject) -> None:
    content = bytearray(segment(contents))
    last = len(contents[-1]) + FRAME_OVERHEAD_BYTES
    bit = data.draw(st.integers(HEADER_BYTES * 8, (len(content) - last) * 8 - 1))
    content[bit // 8] ^= 1 << bit % 8
    _, tail, _, seen = scan(bytes(content))
    assert tail is TailKind.DAMAGED
    assert isinstance(seen, list)
    assert seen == contents[: len(seen)]


def test_damage_is_passed_when_a_checkpoint_has_what_it_hides() -> None:
    contents = [b"[1]", b"[2]", b"[3]", b"[4]"]
    content = segment(contents).replace(b"[2]", b"[X]")
    assert scan(content, resume_max_lsn=2)[1:2] == (TailKind.DAMAGED,)
    assert scan(content, resume_max_lsn=3)[1] is TailKind.CLEAN
    assert scan(content, resume_max_lsn=3)[3] == [b"[1]", b"[3]", b"[4]"]


def test_a_long_tail_is_not_one_frame() -> None:
    content = segment([b"[1]"]) + bytes(limits.FRAME_BYTES_MAX + FRAME_OVERHEAD_BYTES + 1)
    assert scan(content)[1] is TailKind.DAMAGED


def test_frames_longer_than_a_read() -> None:
    contents = [b"x" * 3_000_000, b"[2]", b"y" * limits.FRAME_BYTES_MAX, b"[4]"]
    assert scan(segment(contents))[3] == contents


@pytest.mark.parametrize("payload", [b"", b"a\nb", b"\n"])
def test_payloads_that_would_break_the_format_are_refused(payload: bytes) -> None:
    with pytest.raises(RefusedError) as refusal:
        encode_frame(1, GENESIS_HASH, payload)
    assert refusal.value.reason is Reason.MALFORMED


def test_a_payload_over_the_bound_is_refused() -> None:
    with pytest.raises(RefusedError) as refusal:
        encode_frame(1, GENESIS_HASH, b"x" * (limits.FRAME_BYTES_MAX + 1))
    assert refusal.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1.log",
        "00000000000000000000.log",
        "9" * 20 + ".log",
        "00000000000000000001.log.tmp",
        "0000000000000000000a.log",
    ],
)
def test_names_that_are_no_segments(name: str) -> None:
    assert segment_first_lsn(name) is None


def test_single_frames_are_read_where_they_lie_now(tmp_path: Path) -> None:
    contents = [b"[1]", b"[22]", b"[333]"]
    here, there = tmp_path / "a.log", tmp_path / "b.log"
    there.write_bytes(segment(contents))
    frames = list(frames_of(FILES, (here, there), 1, 0, 3))
    assert [frame.payload for frame in frames] == contents
    for frame in frames:
        assert read_frame_at(FILES, (here, there), frame.position) == frame.payload
    assert [frame.lsn for frame in frames_of(FILES, (there, here), 1, 1, 2)] == [2]


@pytest.mark.parametrize(
    "position",
    [
        FramePosition(2, 1, HEADER_BYTES, 3),
        FramePosition(1, 1, HEADER_BYTES + 1, 3),
        FramePosition(1, 1, HEADER_BYTES, 2),
        FramePosition(1, 1, 10_000, 3),
    ],
)
def test_a_wrong_position_is_never_another_frame(position: FramePosition, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(segment([b"[1]"]))
    with pytest.raises(DataDirDamagedError, match="offset"):
        read_frame_at(FILES, (path,), position)


def test_the_example_of_the_document_is_a_segment() -> None:
    example = re.search(r"```text\n(crabnet-journal .*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    assert scan(example[1].encode())[1:] == (TailKind.CLEAN, len(example[1]), [b"[1]", b'["two"]'])
