"""The arguments of bubblewrap (bwrap(1)) for a run. Pure, except that it checks which directories the host has.

docs/adr/0014-runs-in-a-sandbox.md explains why each argument is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crabnet.runner.sandbox.model import Profile, RunLimits

WORK: Final = "/work"
TMP: Final = "/tmp"  # noqa: S108 - inside the sandbox
SHM: Final = "/dev/shm"  # noqa: S108 - inside the sandbox
DISKS: Final = (WORK, TMP, SHM)
SANDBOX_UID: Final = 1000
"""The user id that a run sees. Outside, a run has the node's user, or its own user id when the node is root."""
_USR_DIRECTORIES: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC_FILES: Final = ("/etc/alternatives", "/etc/ld.so.cache")
_NETWORK_FILES: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/pki",
    "/etc/ca-certificates",
)
_NAMESPACES: Final = ("user", "pid", "ipc", "uts", "cgroup")


@dataclass(frozen=True, slots=True)
class Inside:
    """The inside of a sandbox. ``shown`` is a directory of the operator that is mounted read-only at ``/work``."""

    profile: Profile
    limits: RunLimits
    shown: Path | None = None


def arguments(inside: Inside) -> list[str]:
    """Return all arguments except those for descriptors, environment and command."""
    words: list[str] = []

    def add(*more: str) -> None:
        words.extend(more)

    for namespace in _NAMESPACES:
        add(f"--unshare-{namespace}")
    if inside.profile is Profile.STRICT:
        add("--unshare-net")
    add("--disable-userns", "--assert-userns-disabled")
    add("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), "--hostname", "sandbox")
    add("--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv")
    add(*_system(_ETC_FILES + (_NETWORK_FILES if inside.profile is Profile.NETWORK else ())))
    add("--proc", "/proc", "--dev", "/dev")
    add(*_disk(TMP, inside.limits.tmp_bytes, "1777"), *_disk(SHM, inside.limits.tmp_bytes, "1777"))
    if inside.shown is None:
        add(*_disk(WORK, inside.limits.workdir_bytes, "0700"))
    else:
        add("--ro-bind", str(inside.shown), WORK)
    add("--chdir", WORK, "--remount-ro", "/dev", "--remount-ro", "/")
    return words


def _system(etc_files: Sequence[str]) -> list[str]:
    """Return the arguments for ``/usr`` and the files of ``/etc`` that programs need.

    They never include ``/``, which may contain the node's key.
    """
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _USR_DIRECTORIES:
        path = Path(name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            words += ["--ro-bind", name, name]
    words += ["--dir", "/etc"]
    for name in etc_files:
        words += ["--ro-bind-try", name, name]
    return words


def _disk(path: str, size_bytes: int, mode: str) -> list[str]:
    return ["--perms", mode, "--size", str(size_bytes), "--tmpfs", path]


def visible(executable: Path) -> bool:
    """True if a file of the host has the same path inside a sandbox. ``executable`` must have no links in its path."""
    return any(executable.is_relative_to(root) for root in ("/usr", *_USR_DIRECTORIES))
