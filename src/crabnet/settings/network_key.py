"""The file with the key of a private network, in the format of go-libp2p and js-libp2p (its specification is
"Pre-shared Key Based Private Networks", https://github.com/libp2p/specs/blob/master/pnet/Private-Networks-PSK-V1.md).
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from crabnet.errors import DataDirDamagedError, Reason, UsageError

_FIRST: Final = "/key/swarm/psk/1.0.0/"
_BASE16: Final = "/base16/"
_DIGITS: Final = re.compile(r"[0-9a-fA-F]*", re.ASCII)
_KEY_DIGITS: Final = 64
_FILE_BYTES_MAX: Final = 4_096
_WIDER_THAN_OWNER: Final = 0o077
_KNOB: Final = "dht_network_key_file"


def read_network_key(path: Path) -> bytes:
    """The 32 bytes of the key. No error contains anything of the file.

    Raises UsageError (INVALID_CONFIG) for a file that cannot be read or is no such key, and DataDirDamagedError
    (UNSAFE_PERMISSIONS) for one that others can read or change.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block the start
        try:
            _demand_private(path, os.fstat(descriptor))
            content = os.read(descriptor, _FILE_BYTES_MAX)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"{_KNOB}: cannot read {path}: {error.strerror}", Reason.INVALID_CONFIG) from None
    wrong, digits = _parsed(content.decode("ascii", "replace").split())
    if wrong:
        raise UsageError(f"{_KNOB}: {path} is not the key of a network: {wrong}", Reason.INVALID_CONFIG)
    return bytes.fromhex(digits)


def _demand_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{_KNOB}: {path} is not a regular file", Reason.INVALID_CONFIG)
    if found.st_mode & _WIDER_THAN_OWNER:
        raise DataDirDamagedError(
            f"{_KNOB}: {path} has mode {stat.S_IMODE(found.st_mode):04o}: other users can access the key of the"
            " network; run chmod 600 on it, and make a new key if somebody may have read it",
            Reason.UNSAFE_PERMISSIONS,
        )
    if found.st_uid not in {0, os.geteuid()}:
        raise DataDirDamagedError(
            f"{_KNOB}: {path} belongs to the user {found.st_uid}, not to this one", Reason.UNSAFE_PERMISSIONS
        )


def _parsed(words: list[str]) -> tuple[str, str]:
    """What is wrong, and the digits of the key."""
    if words[:1] != [_FIRST]:
        return f"its first line is not {_FIRST}", ""
    if words[1:2] != [_BASE16]:
        return f"its second line is not {_BASE16}, the only encoding that this node reads", ""
    if len(words) != 3:
        return f"{len(words) - 2} words follow {_BASE16} instead of one", ""
    if not _DIGITS.fullmatch(words[2]) or len(words[2]) != _KEY_DIGITS:
        return f"its third line is not {_KEY_DIGITS} hexadecimal digits (it has {len(words[2])} characters)", ""
    return "", words[2]
