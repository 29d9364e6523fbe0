"""The node's key file: PEM PKCS#8, mode 0600. It is made once and never overwritten."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from crabnet.errors import DataDirDamagedError, Reason
from crabnet.storage.files import Files, guarded, read_whole, replace_file

KEY_FILE: Final = "identity.key"
_KEY_FILE_BYTES_MAX: Final = 16 * 1024
_WIDER_THAN_OWNER: Final = stat.S_IRWXG | stat.S_IRWXO


def load_key_file(files: Files, data_dir: Path) -> bytes | None:
    """Return the bytes of ``identity.key``, None if there is no such file.

    Raises DataDirDamagedError (UNSAFE_PERMISSIONS) if anybody but the owner can read or write it, or if every user
    can replace it with another file. Raises StorageFailedError if it cannot be read.
    """
    path = data_dir / KEY_FILE
    with guarded("read the key", path):
        mode = data_dir.stat().st_mode if data_dir.exists() else 0
        if mode & stat.S_IWOTH:
            raise DataDirDamagedError(
                f"{data_dir} has mode {stat.S_IMODE(mode):04o}: every user can replace the node's files; if nobody has"
                " done that, run chmod 700 on it, else use another data dir",
                Reason.UNSAFE_PERMISSIONS,
            )
        if files.size(path) is None:
            return None
        mode = path.stat().st_mode
        if mode & _WIDER_THAN_OWNER:
            raise DataDirDamagedError(
                f"{path} has mode {stat.S_IMODE(mode):04o}: other users can access the node's key; if nobody has done"
                " that, run chmod 600 on it, else start with a new identity in a new data dir",
                Reason.UNSAFE_PERMISSIONS,
            )
        return read_whole(files, path, _KEY_FILE_BYTES_MAX)


def create_key_file(files: Files, data_dir: Path, make_pem: Callable[[], bytes]) -> bytes:
    """Write a new key and return it once it is durable. Raises StorageFailedError."""
    pem = make_pem()
    path = data_dir / KEY_FILE
    with guarded("write the key", path):
        replace_file(files, path, pem)
    return pem
