"""Installs the packages of the foreign peer that is written in JavaScript, once for each state of its lock file."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent / "js"
NODE_VERSION_MIN: Final = 18
_STAMP: Final = HERE / "node_modules" / ".crabnet-lock"
_INSTALL_S: Final = 240


class NotInstalledError(Exception):
    """Something is missing, and the text says what."""


def installed() -> str:
    """The path of a Node.js that can run the foreign peer, with its packages installed. Raises NotInstalledError."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalledError(f"{'node' if node is None else 'npm'} is missing (Node.js {NODE_VERSION_MIN} or newer)")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    match = re.match(r"v(\d+)\.", version)
    if match is None or int(match[1]) < NODE_VERSION_MIN:
        raise NotInstalledError(f"{node} is {version}; js-libp2p needs Node.js {NODE_VERSION_MIN} or newer")
    with (HERE / ".lock").open("w") as lock:  # several test processes may want to install at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _install(npm)
    return node


def _install(npm: str) -> None:
    wanted = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()
    if _STAMP.is_file() and _STAMP.read_text(encoding="ascii") == wanted:
        return
    words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            words, cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"npm did not install js-libp2p within {_INSTALL_S} s") from None
    if done.returncode:
        last = " ".join(done.stderr.split()[-30:])
        raise NotInstalledError(f"npm could not install js-libp2p (no network?): {last}")
    _STAMP.write_text(wanted, encoding="ascii")
