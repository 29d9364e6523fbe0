"""Finding out where this node may make control groups, and removing groups that its earlier processes left."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from crabnet.runner.sandbox.model import CgroupPlaces
from crabnet.runner.supervisor.cgroup import RunCgroup
from crabnet.runner.supervisor.order import Bounds, CgroupOrder

ROOT: Final = Path("/sys/fs/cgroup")
PREFIX: Final = "crabnet-"
LEAF: Final = "node"
"""The group of the node itself, beneath the group that was delegated to it."""
_MEMBERS: Final = "cgroup.procs"
_DELEGATED: Final = "user.delegate"
"""systemd (251 or later) sets this attribute of a group that it delegates."""
CONTROLLERS: Final[tuple[str, ...]] = ("memory", "pids", "cpu")
_ABANDONED_AFTER_S: Final = 60
"""Longer than a node needs between making its groups and locking them."""
_JOIN: Final = 'for file; do echo 0 >"$file" || exit 1; done'
_PROBE_BOUNDS: Final = Bounds(
    memory_bytes=64 * 1024 * 1024, processes=16, cpu_ms=1_000, cpu_percent=100, workdir_bytes=0
)


def owner_tag(data_dir: Path) -> str:
    """Return the tag in the names of everything that belongs to the node of this data dir.

    The data dir is locked, so what a node finds with its own tag at its start is a leftover.
    """
    try:
        found = data_dir.stat()
        place = f"{data_dir}:{found.st_dev}:{found.st_ino}"
    except OSError:
        place = str(data_dir)
    return hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:16]


def enter_leaf(root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> None:
    """Move this process into a group of its own beneath its group, if that was delegated and holds no other process.

    With cgroup v2, a group that has processes cannot give controllers to the groups beneath it.
    """
    unified = root if (root / "cgroup.controllers").exists() else root / "unified"
    with suppress(OSError):
        group = unified / _own_groups(membership).get("", "/").lstrip("/")
        if os.getxattr(group, _DELEGATED) != b"1" or (group / _MEMBERS).read_text().split() != [str(os.getpid())]:
            return
        (group / LEAF).mkdir(exist_ok=True)
        (group / LEAF / _MEMBERS).write_text("0")


def find_places(tag: str, root: Path = ROOT, membership: Path = Path("/proc/self/cgroup")) -> CgroupPlaces | None:
    """Make this node's own groups wherever that works, and test each of them. Returns None if none works."""
    own = _own_groups(membership)
    unified = root if (root / "cgroup.controllers").exists() else root / "unified"
    v2 = None
    if (unified / "cgroup.controllers").exists():
        v2 = _find_v2(unified, own.get("", "/"), tag)
        if v2 is not None and v2.parents:
            return v2
    parents: dict[str, Path] = {}
    for controller in (*CONTROLLERS, "cpuacct"):
        parent = _find_v1(root / controller, own.get(controller, "/"), tag)
        if parent is not None:
            parents[controller] = parent
    kill_parent = v2.kill_parent if v2 is not None else None
    if not parents and kill_parent is None:
        return None
    return _tried(CgroupPlaces(1, parents, kill_parent))


def sweep(places: CgroupPlaces) -> int:
    """Kill and remove all groups of runs of this node. Returns their number."""
    names = {entry.name for directory in _directories(places) for entry in _groups_in(directory)}
    for name in sorted(names):
        clear(places, name)
    return len(names)


def clear(places: CgroupPlaces, name: str) -> None:
    """Kill and remove the existing groups of one run."""
    with suppress(OSError):
        group = _existing(places, name)
        group.kill()
        group.remove()


def remove_places(places: CgroupPlaces) -> None:
    """Remove this node's own groups at its end."""
    for directory in _directories(places):
        with suppress(OSError):
            directory.rmdir()


@dataclass(frozen=True, slots=True)
class Hold:
    """A running node's own groups. Their locks show other nodes that they are in use."""

    places: CgroupPlaces
    fds: tuple[int, ...]

    def release(self) -> None:
        """Remove the groups and their locks."""
        remove_places(self.places)
        for fd in self.fds:
            os.close(fd)


def hold(places: CgroupPlaces) -> Hold:
    """Lock the groups of this node, and remove groups next to them that belonged to killed nodes."""
    fds: list[int] = []
    for directory in _directories(places):
        fd = _locked(directory)
        if fd is not None:
            fds.append(fd)
        for other in directory.parent.glob(PREFIX + "*"):
            if other != directory:
                _remove_abandoned(other)
    return Hold(places, tuple(fds))


def _directories(places: CgroupPlaces) -> set[Path]:
    return {*places.parents.values(), *([places.kill_parent] if places.kill_parent is not None else [])}


def _locked(directory: Path) -> int | None:
    """Lock a directory and return the descriptor, None if another process holds the lock or there is no directory."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _remove_abandoned(directory: Path) -> None:
    """Remove a group that no process has locked, unless it is new. Kills nothing: rmdir(2) refuses a group in use."""
    with suppress(OSError):
        if time.time() - directory.stat().st_ctime < _ABANDONED_AFTER_S:
            return
    fd = _locked(directory)
    if fd is None:
        return
    try:
        for path in (*_groups_in(directory), directory):
            with suppress(OSError):
                path.rmdir()
    finally:
        os.close(fd)


def order_for(places: CgroupPlaces, name: str) -> CgroupOrder:
    """Return the description of a run's control group for the supervisor."""
    return CgroupOrder(
        version=places.version,
        parents={controller: str(path) for controller, path in places.parents.items()},
        kill_parent=str(places.kill_parent or ""),
        name=name,
    )


def _existing(places: CgroupPlaces, name: str) -> RunCgroup:
    """Return an existing group, with only the controllers in which it exists. Its limits no longer matter."""
    kept = {controller: path for controller, path in places.parents.items() if (path / name).is_dir()}
    return RunCgroup(order_for(replace(places, parents=kept), name), _PROBE_BOUNDS, 0)


def _own_groups(membership: Path) -> dict[str, str]:
    """Return the path of this process's group by controller. The empty name is cgroup v2. See cgroups(7)."""
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _candidates(mount: Path, own: str) -> Iterator[Path]:
    """Yield this process's own group first, then the groups above it."""
    group = mount / own.lstrip("/")
    if group.is_dir() and group.is_relative_to(mount):
        yield group
        for parent in group.parents:
            if parent == mount or mount in parent.parents:
                yield parent
    elif mount.is_dir():
        yield mount


def _find_v1(mount: Path, own: str, tag: str) -> Path | None:
    for group in _candidates(mount, own):
        directory = group / (PREFIX + tag)
        with suppress(OSError):
            directory.mkdir(exist_ok=True)
            return directory
    return None


def _find_v2(mount: Path, own: str, tag: str) -> CgroupPlaces | None:
    """Find a group with controllers, else one that has only ``cgroup.kill``, else None."""
    fallback: CgroupPlaces | None = None
    for group in _candidates(mount, own):
        directory = group / (PREFIX + tag)
        try:
            _enable(group)
            directory.mkdir(exist_ok=True)
            _enable(directory)
            controllers = (directory / "cgroup.subtree_control").read_text().split()
        except OSError:
            continue
        parents = {controller: directory for controller in CONTROLLERS if controller in controllers}
        kill_parent = directory if (directory / "cgroup.kill").exists() else None
        tried = _tried(CgroupPlaces(2, parents, kill_parent))
        if tried is not None and tried.parents:
            if fallback is not None:
                remove_places(fallback)
            return tried
        if tried is not None and fallback is None:
            fallback = tried
        else:
            with suppress(OSError):
                directory.rmdir()
    return fallback


def _enable(group: Path) -> None:
    """Enable all available controllers for the groups beneath this one. A group that has processes refuses that."""
    with suppress(OSError):
        offered = (group / "cgroup.controllers").read_text().split()
        for controller in CONTROLLERS:
            if controller in offered:
                with suppress(OSError):
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")


def _tried(places: CgroupPlaces) -> CgroupPlaces | None:
    """Return ``places`` with only the controllers whose limits can be set in a group that a process may join."""
    if _works(places):
        return places
    usable: dict[str, Path] = {}
    for controller, parent in places.parents.items():
        if _works(CgroupPlaces(places.version, {controller: parent}, None)):
            usable[controller] = parent
    kill_parent = places.kill_parent
    if kill_parent is not None and not _works(CgroupPlaces(2, {}, kill_parent)):
        kill_parent = None
    if not usable and kill_parent is None:
        return None
    return CgroupPlaces(places.version, usable, kill_parent)


def _works(places: CgroupPlaces) -> bool:
    try:
        group = RunCgroup(order_for(places, f"probe-{os.getpid()}"), _PROBE_BOUNDS, 0)
    except OSError:
        return False
    try:
        joined = subprocess.run(
            ["/bin/sh", "-c", _JOIN, "join", *group.member_files],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        return False
    finally:
        group.remove()
    return joined.returncode == 0


def _groups_in(directory: Path) -> list[Path]:
    with suppress(OSError):
        return [entry for entry in directory.iterdir() if entry.is_dir()]
    return []
