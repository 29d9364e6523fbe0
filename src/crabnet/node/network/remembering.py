"""The file ``peers.json`` in a data dir: peers to greet at the next start. A node works without it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
import trio
from msgspec import Meta, Struct
from msgspec.structs import replace

from crabnet import limits
from crabnet.core.effects import FieldValue
from crabnet.core.sync.address_book import RememberedPeer
from crabnet.core.sync.neighbours import Neighbours
from crabnet.errors import UsageError
from crabnet.node.part import Job, Part
from crabnet.source import udp_source
from crabnet.storage.files import Files, read_whole, replace_file
from crabnet.transport.base import address_of

PEERS_FILE: Final = "peers.json"
_FORMAT: Final = "crabnet-peers-2"
_FORMAT_WITHOUT_SCHEMES: Final = "crabnet-peers-1"

Notify = Callable[[str, dict[str, FieldValue]], None]


class _Peers(Struct, frozen=True, kw_only=True):
    format: str
    peers: Annotated[list[RememberedPeer], Meta(max_length=limits.PEERS_REMEMBERED_MAX)]


class PeersFile:
    """Reads and replaces the file. Methods block."""

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self._path = data_dir / PEERS_FILE

    def read(self) -> tuple[list[RememberedPeer], str]:
        """The peers, and what is wrong with the file ("" if nothing is). A damaged file gives no peers."""
        try:
            content = read_whole(self._files, self._path, limits.PEERS_FILE_BYTES_MAX)
        except OSError as error:
            return [], f"cannot read {self._path}: {error}"
        if content is None:
            return [], ""
        if len(content) > limits.PEERS_FILE_BYTES_MAX:
            return [], f"{self._path} is larger than {limits.PEERS_FILE_BYTES_MAX} bytes"
        try:
            stored = msgspec.json.decode(content, type=_Peers)
            if stored.format == _FORMAT_WITHOUT_SCHEMES:
                stored = _Peers(
                    format=_FORMAT, peers=[replace(peer, address=udp_source(peer.address)) for peer in stored.peers]
                )
            if stored.format != _FORMAT:
                return [], f"{self._path} has format {stored.format[:64]!r}, not {_FORMAT}"
            for peer in stored.peers:
                address_of(peer.address)
        except (msgspec.MsgspecError, UnicodeDecodeError, UsageError) as error:
            return [], f"{self._path} is damaged: {error}"
        return stored.peers, ""

    def write(self, peers: list[RememberedPeer]) -> str:
        """Replace the file durably. Returns what went wrong, "" if nothing did."""
        content = msgspec.json.encode(_Peers(format=_FORMAT, peers=peers)) + b"\n"
        try:
            replace_file(self._files, self._path, content)
        except OSError as error:
            return f"cannot write {self._path}: {error}"
        return ""


class PeerKeeper(Part):
    """Reads the file, and with ``keep`` writes it when the neighbours change. It reports failures and goes on."""

    def __init__(
        self, file: PeersFile, neighbours: Neighbours, notify: Notify, clock_ms: Callable[[], int], *, keep: bool
    ) -> None:
        self._file = file
        self._neighbours = neighbours
        self._notify = notify
        self._clock_ms = clock_ms
        self._keep = keep

    async def open(self) -> None:
        """Load the remembered peers."""
        peers, wrong = await trio.to_thread.run_sync(self._file.read)
        self._neighbours.book.load(peers, self._clock_ms())
        self._tell(wrong)

    def jobs(self) -> Sequence[Job]:
        """The job that writes the file every PEERS_SAVE_S seconds."""
        return [Job(self.run, "peers_file")]

    async def finish(self) -> bool:
        """Write the file a last time."""
        if self._keep:
            await self.save()
        return True

    async def save(self) -> None:
        """Write the file if something has changed."""
        book = self._neighbours.book
        peers = book.peers(self._neighbours.peers.heard_ms)
        if book.changed:
            book.changed = False
            self._tell(await trio.to_thread.run_sync(self._file.write, peers))

    async def run(self) -> None:
        """Save every PEERS_SAVE_S seconds until cancelled."""
        while True:
            await trio.sleep(limits.PEERS_SAVE_S)
            await self.save()

    def _tell(self, wrong: str) -> None:
        if wrong:
            fields: dict[str, FieldValue] = {"file": PEERS_FILE, "detail": wrong[: limits.EVENT_DETAIL_CHARS]}
            self._notify("peers_file_bad", fields)
