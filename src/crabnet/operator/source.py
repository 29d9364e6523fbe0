"""The exporter: what the node holds, and its key."""

from __future__ import annotations

from pathlib import Path

import msgspec

from crabnet.control.client import JsonValue
from crabnet.errors import CrabnetError, DataDirDamagedError
from crabnet.operator.exchange import Vector
from crabnet.operator.export import Source
from crabnet.protocol.keys import seed_of_pem
from crabnet.storage.files import Files
from crabnet.storage.keyfile import KEY_FILE, load_key_file


class _Answer(msgspec.Struct):
    namespace: str
    node_id: str
    lsn: int
    heads: Vector


def source_of(answer: JsonValue) -> Source:
    """The source in an answer of the method ``state.vector``. Raises CrabnetError for any other answer."""
    try:
        said = msgspec.convert(answer, _Answer)
    except msgspec.ValidationError as error:
        raise CrabnetError(
            f"the node's version vector cannot be read: {error}; check that the node runs the same version"
        ) from None
    return Source(said.namespace, said.node_id, said.lsn, said.heads)


def key_seed_of(files: Files, data_dir: Path) -> bytes:
    """The private key of the data dir. Raises DataDirDamagedError, StorageFailedError."""
    pem = load_key_file(files, data_dir)
    if pem is None:
        raise DataDirDamagedError(f"{data_dir} has no {KEY_FILE}; restore it from a backup")
    try:
        return seed_of_pem(pem)
    except ValueError as error:
        raise DataDirDamagedError(f"{data_dir / KEY_FILE} is damaged: {error}; restore it from a backup") from error
