"""The file ``p2p-peers.json`` in a data dir: addresses of libp2p peers that have worked, for the next start.

The node signs the file and dates it, so that nobody who can write to the disk, but does not have the key, can send the
node to peers of his choice. A node works without the file too.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from crabnet import limits
from crabnet.protocol.identity import Signer, verify
from crabnet.settings.kinds import Wrong
from crabnet.settings.multiaddr import is_peer_id, parse_multiaddr
from crabnet.storage.files import Files, read_whole, replace_file
from crabnet.transport.p2p_wire import Known, Learnt

BOOK_FILE: Final = "p2p-peers.json"
_FORMAT: Final = "crabnet-p2p-peers-1"


class _Row(Struct, frozen=True):
    """One address: who is there, how it was learnt, when it last worked (wall time), failed tries since then."""

    address: Annotated[str, Meta(max_length=limits.MULTIADDR_CHARS_MAX)]
    peer: Annotated[str, Meta(max_length=limits.NODE_ID_CHARS_MAX)]
    learnt: Learnt
    last_success_s: Annotated[int, Meta(ge=0)]
    failures: Annotated[int, Meta(ge=0)]


class _Content(Struct, frozen=True, kw_only=True):
    format: str
    node_id: str
    written_s: int
    peers: Annotated[list[_Row], Meta(max_length=limits.PEERS_REMEMBERED_MAX)]


class _Signed(Struct, frozen=True):
    content: msgspec.Raw
    signature: str


class BookFile:
    """Reads and replaces the file. ``read`` and ``write`` block.

    Whoever can write to the disk could put an older file in its place. That does no harm: its addresses are hints, and
    the peer at each must prove its id. A time that is later than the file's own date does not count.
    """

    name = BOOK_FILE

    def __init__(self, files: Files, data_dir: Path, signer: Signer, clock_ms: Callable[[], int]) -> None:
        self._files = files
        self._path = data_dir / BOOK_FILE
        self._signer = signer
        self._clock_ms = clock_ms
        self._known: list[Known] = []
        self._changed = False
        self._counts_changed = False
        self._written_ms = 0

    @property
    def known(self) -> list[Known]:
        """The addresses as they stand now."""
        return self._known

    def put(self, known: Sequence[Known]) -> None:
        """Take what the next ``write`` is to keep."""
        before = {(each.address, each.peer, each.succeeded_s) for each in self._known}
        self._changed |= before != {(each.address, each.peer, each.succeeded_s) for each in known}
        self._counts_changed |= list(known) != self._known
        self._known = list(known)

    def read(self) -> tuple[list[Known], str]:
        """The addresses, and what is wrong with the file ("" if nothing is). A damaged file gives none."""
        try:
            raw = read_whole(self._files, self._path, limits.PEERS_FILE_BYTES_MAX)
        except OSError as error:
            return [], f"cannot read {self._path}: {error}"
        if raw is None:
            return [], ""
        if len(raw) > limits.PEERS_FILE_BYTES_MAX:
            return [], f"{self._path} is larger than {limits.PEERS_FILE_BYTES_MAX} bytes"
        try:
            signed = msgspec.json.decode(raw, type=_Signed)
            content = msgspec.json.decode(signed.content, type=_Content)
            signature = b64decode(signed.signature, validate=True)
            if content.format != _FORMAT:
                return [], f"{self._path} has format {content.format[:64]!r}, not {_FORMAT}"
            if not verify(self._signer.public_key, _digest(bytes(signed.content)), signature):
                return [], f"{self._path} is not signed by this node"
            for row in content.peers:
                if parse_multiaddr(row.address).peer not in ("", row.peer) or not is_peer_id(row.peer):
                    return [], f"{self._path} is damaged: {row.peer[:64]!r} cannot be the peer of an address"
        except (msgspec.MsgspecError, ValueError, Wrong) as error:
            return [], f"{self._path} is damaged: {error}"
        latest_s = min(content.written_s, self._clock_ms() // 1000)
        self._known = [
            Known(row.address, row.peer, row.learnt, min(row.last_success_s, max(latest_s, 0)), row.failures)
            for row in content.peers
        ]
        return self._known, ""

    def write(self) -> str:
        """Replace the file durably, if anything has changed. Returns what went wrong, "" if nothing did.

        Counts of failures alone are written rarely: they change all the time while a peer is away.
        """
        rarely = self._clock_ms() - self._written_ms >= limits.P2P_COUNTS_SAVE_S * 1000
        if not self._changed and not (self._counts_changed and rarely):
            return ""
        self._changed = self._counts_changed = False
        self._written_ms = self._clock_ms()
        content = msgspec.json.encode(
            _Content(
                format=_FORMAT,
                node_id=self._signer.node_id,
                written_s=self._clock_ms() // 1000,
                peers=[
                    _Row(each.address, each.peer, each.learnt, each.succeeded_s, each.failures) for each in self._known
                ],
            )
        )
        signature = b64encode(self._signer.sign(_digest(content))).decode()
        try:
            replace_file(self._files, self._path, msgspec.json.encode(_Signed(msgspec.Raw(content), signature)) + b"\n")
        except OSError as error:
            self._changed = True
            return f"cannot write {self._path}: {error}"
        return ""


def _digest(content: bytes) -> bytes:
    """What is signed: it cannot be taken for the content of an envelope."""
    return _FORMAT.encode() + b"\n" + hashlib.sha256(content).digest()
