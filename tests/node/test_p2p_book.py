"""The file of libp2p peers: taken only as this node has written it, and never a reason to stop."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from crabnet import limits
from crabnet.node.network.p2p_book import BOOK_FILE, BookFile
from crabnet.protocol.identity import Signer
from crabnet.storage.files import Files, OpenMode, RealFiles
from crabnet.transport.p2p_wire import Known, Learnt

NOW_S = 1_800_000_000
PEERS = [Signer(bytes([number]) * 32).node_id for number in (1, 2)]
KNOWN = [
    Known(f"/ip4/192.0.2.1/tcp/1/p2p/{PEERS[0]}", PEERS[0], Learnt.CONFIGURED, NOW_S - 100, 3),
    Known("/dns/peer.example/tcp/2", PEERS[1], Learnt.MDNS, NOW_S - 10),
]


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> int:
        return self.now_s * 1000


def book(directory: Path, seed: bytes = b"n" * 32, files: Files | None = None, clock: Clock | None = None) -> BookFile:
    return BookFile(files or RealFiles(), directory, Signer(seed), clock or Clock())


def written(directory: Path, known: list[Known], seed: bytes = b"n" * 32) -> Path:
    made = book(directory, seed)
    made.put(known)
    assert made.write() == ""
    return directory / BOOK_FILE


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written(tmp_path, KNOWN)
    assert book(tmp_path).read() == (KNOWN, "")


def test_without_a_file_nothing_is_wrong(tmp_path: Path) -> None:
    assert book(tmp_path).read() == ([], "")


def test_a_file_of_another_node_does_not_count(tmp_path: Path) -> None:
    written(tmp_path, KNOWN, b"x" * 32)
    known, wrong = book(tmp_path).read()
    assert known == []
    assert "not signed by this node" in wrong


@pytest.mark.parametrize("old", ["192.0.2.1", "configured", '"failures":3', "peer.example", PEERS[0][-6:]])
def test_a_changed_file_does_not_count(tmp_path: Path, old: str) -> None:
    path = written(tmp_path, KNOWN)
    text = path.read_text()
    changed = text.replace(old, {"configured": "mdns", '"failures":3': '"failures":0'}.get(old, old[:-1] + "2"))
    if changed == text:
        changed = text.replace(old, old[:-1] + "3")
    path.write_text(changed)
    known, wrong = book(tmp_path).read()
    assert known == []
    assert wrong


def test_an_older_file_counts_and_the_times_in_it_are_not_later_than_its_date(tmp_path: Path) -> None:
    """Whoever puts an older file back gains nothing: its addresses are hints. A clock may have been wrong, too."""
    ahead = [Known(KNOWN[0].address, PEERS[0], Learnt.MDNS, NOW_S + 10**6)]
    written(tmp_path, ahead)
    known, wrong = book(tmp_path).read()
    assert (wrong, [each.succeeded_s for each in known]) == ("", [NOW_S])
    clock = Clock()
    clock.now_s = NOW_S - 500
    known, wrong = book(tmp_path, clock=clock).read()
    assert (wrong, [each.succeeded_s for each in known]) == ("", [NOW_S - 500])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff" * 100,
        b'{"content": {}, "signature": ""}',
        b'{"content": {"format": "crabnet-p2p-peers-1"}, "signature": "AA=="}',
        b"[" * 100_000,
        b" " * (limits.PEERS_FILE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_file_of_peers_does_not_count(tmp_path: Path, content: bytes) -> None:
    (tmp_path / BOOK_FILE).write_bytes(content)
    known, wrong = book(tmp_path).read()
    assert known == []
    assert BOOK_FILE in wrong


def test_a_directory_in_its_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / BOOK_FILE).mkdir()
    known, wrong = book(tmp_path).read()
    assert known == []
    assert "cannot read" in wrong


@pytest.mark.parametrize(
    "bad",
    [
        Known("/ip4/192.0.2.1/tcp/1", "nobody", Learnt.MDNS, 1),
        Known(f"/ip4/192.0.2.1/tcp/1/p2p/{PEERS[0]}", PEERS[1], Learnt.MDNS, 1),
        Known("somewhere", PEERS[1], Learnt.MDNS, 1),
        Known("/dns/" + "x" * limits.MULTIADDR_CHARS_MAX + "/tcp/1", PEERS[1], Learnt.MDNS, 1),
    ],
)
def test_a_row_that_the_process_could_not_use_spoils_the_file(tmp_path: Path, bad: Known) -> None:
    """Even with the node's own signature: a mistake of this program must not end each life of the process."""
    written(tmp_path, [bad])
    known, wrong = book(tmp_path).read()
    assert known == []
    assert "damaged" in wrong


class FullDisk(RealFiles):
    """Files of a disk that is full for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True

    def open(self, path: Path, mode: OpenMode) -> int:
        if self.full and mode is OpenMode.REPLACE:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return super().open(path, mode)


def test_a_full_disk_is_reported_and_the_next_try_writes(tmp_path: Path) -> None:
    disk = FullDisk()
    made = book(tmp_path, files=disk)
    made.put(KNOWN)
    assert "No space left" in made.write()
    disk.full = False
    assert made.write() == ""
    assert book(tmp_path).read() == (KNOWN, "")


def test_counts_alone_are_written_rarely(tmp_path: Path) -> None:
    clock = Clock()
    made = book(tmp_path, clock=clock)
    made.put(KNOWN)
    assert made.write() == ""
    path = tmp_path / BOOK_FILE
    before = path.read_bytes()
    failed = [Known(KNOWN[0].address, PEERS[0], Learnt.CONFIGURED, NOW_S - 100, 4), KNOWN[1]]
    made.put(failed)
    assert made.write() == ""
    assert path.read_bytes() == before
    clock.now_s += limits.P2P_COUNTS_SAVE_S
    assert made.write() == ""
    assert json.loads(path.read_bytes())["content"]["peers"][0]["failures"] == 4
