"""The self-test of the sandbox: in each mode, a canary run tries to escape and must fail.

``crabnet status`` shows what a node found at its start.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from crabnet import limits
from crabnet.runner import landlock, scratch
from crabnet.runner.execute import run_command
from crabnet.runner.outcome import RunOutcome, RunRequest
from crabnet.runner.policy import ANY_COMMAND, RunnerPolicy
from crabnet.runner.sandbox import cgroups, leftovers
from crabnet.runner.sandbox.model import Attempt, CgroupPlaces, Choice, Fence, Mode, Profile, SandboxReport, enforcers
from crabnet.runner.supervisor_client import Supervisors

BWRAP_PATHS: Final = ("/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap")
_MODES: Final = {
    Choice.AUTO: (Mode.BWRAP, Mode.LANDLOCK),
    Choice.BWRAP: (Mode.BWRAP,),
    Choice.LANDLOCK: (Mode.LANDLOCK,),
}
_HELD: Final = "held"
_CANARY: Final = """
fail() { echo "$1"; exit 1; }
echo works > canary && [ "$(cat canary)" = works ] || fail 'cannot write its work dir'
rm canary
cat "$1" 2>/dev/null && fail 'can read a file of the host'
(: > "$2") 2>/dev/null && fail 'can write a file of the host'
here=$(readlink /proc/self/ns/pid 2>/dev/null)
if [ -z "$here" ] || [ "$here" = "$6" ]; then
  kill -0 "$3" 2>/dev/null && fail 'can signal the node'
  cat "/proc/$3/environ" >/dev/null 2>&1 && [ "$5" = landlock ] && fail 'can read the environment of the node'
fi
if [ -x /usr/bin/bash ]; then
  /usr/bin/bash -c ': < "/dev/tcp/127.0.0.1/$1"' canary "$4" 2>/dev/null && fail 'can connect to the host'
fi
echo held
"""
"""The canary's program. Its arguments are a file of the host, a file to make on the host, the node's process id, a port
of the host, the mode, and the node's process id namespace. In another namespace the node's process id may name another
process.
"""


@dataclass(frozen=True, slots=True)
class _Trap:
    """The targets of the canary on the host: a file to read, a path to write and a port to connect to."""

    secret: Path
    loot: Path
    listener: socket.socket


async def survey(
    policy: RunnerPolicy,
    choice: Choice,
    data_dir: Path,
    supervisors: Supervisors | None = None,
    holds: list[cgroups.Hold] | None = None,
) -> SandboxReport:
    """Try the modes in order until one confines the canary, and find out what enforces each limit in it.

    Only a process that holds the lock of the data dir may give ``holds``. It must release the entries that are added
    when it ends. With ``holds`` the survey also removes what an earlier process of this node left. Without ``holds`` it
    leaves nothing behind.
    """
    started_s = time.monotonic()
    tag = cgroups.owner_tag(data_dir)
    ours = [] if holds is None else holds
    try:
        places, swept = await trio.to_thread.run_sync(_prepare, tag, holds is not None, ours)
        fence, attempts = await _first_that_holds(policy, choice, places, tag, supervisors)
    finally:
        if holds is None:
            for hold in ours:
                hold.release()
    return SandboxReport(
        choice=choice,
        fence=fence,
        profiles=policy.profiles,
        limits=policy.limits,
        enforced_by=enforcers(fence) if fence is not None else {},
        attempts=tuple(attempts),
        duration_ms=_ms_since(started_s),
        detail=_detail(choice, fence, attempts),
        swept=swept,
    )


async def _first_that_holds(
    policy: RunnerPolicy, choice: Choice, places: CgroupPlaces | None, tag: str, supervisors: Supervisors | None
) -> tuple[Fence | None, list[Attempt]]:
    if choice is Choice.NONE:
        return Fence(Mode.NONE, cgroups=places, drop_root=False), []
    attempts: list[Attempt] = []
    for mode in _MODES[choice]:
        attempt, fence = await _attempt(mode, policy, places, tag, supervisors)
        attempts.append(attempt)
        if fence is not None:
            return fence, attempts
    return None, attempts


def _prepare(tag: str, owner: bool, holds: list[cgroups.Hold]) -> tuple[CgroupPlaces | None, int]:
    """Return where control groups can be made, and how many leftovers were removed.

    Unless ``owner``, a node may be running on this data dir, so other groups are used and nothing is removed. If a part
    of the machine cannot be examined, only that part of the answer is missing.
    """
    places: CgroupPlaces | None = None
    with suppress(OSError):
        places = cgroups.find_places(tag if owner else f"{tag}-{os.getpid()}")
        if places is not None:
            holds.append(cgroups.hold(places))
    with suppress(OSError):
        return places, leftovers.sweep(places, tag) if owner else 0
    return places, 0


def _detail(choice: Choice, fence: Fence | None, attempts: list[Attempt]) -> str:
    tried = "; ".join(f"{attempt.mode.value}: {attempt.detail}" for attempt in attempts if not attempt.usable)
    if fence is None:
        return f"no sandbox works here, so nothing is run ({tried}); install bubblewrap, see docs/SECURITY.md"
    if choice is Choice.NONE:
        return "runner_sandbox = none: tasks of other nodes run with the rights of this node's user"
    return tried


async def _attempt(
    mode: Mode, policy: RunnerPolicy, places: CgroupPlaces | None, tag: str, supervisors: Supervisors | None
) -> tuple[Attempt, Fence | None]:
    started_s = time.monotonic()
    fence = Fence(mode, cgroups=places, bwrap=_find_bwrap(), landlock_abi=landlock.abi_version())
    try:
        problem = _lacking(fence) or await canary_problem(fence, policy, tag, supervisors)
    except OSError as error:
        problem = f"the self-test could not be run: {error.strerror}"
    attempt = Attempt(mode, not problem, problem, _ms_since(started_s))
    return attempt, None if problem else fence


def _lacking(fence: Fence) -> str:
    if fence.mode is Mode.BWRAP and fence.bwrap is None:
        return "bubblewrap is not installed"
    if fence.mode is Mode.LANDLOCK and fence.landlock_abi == 0:
        return "the kernel has no Landlock, or it is switched off"
    return ""


def _find_bwrap() -> Path | None:
    return next((Path(path) for path in BWRAP_PATHS if os.access(path, os.X_OK)), None)


async def canary_problem(fence: Fence, policy: RunnerPolicy, tag: str, supervisors: Supervisors | None = None) -> str:
    """Return why this fence does not confine the canary, "" when it does."""
    with _trap(tag) as trap:
        port = trap.listener.getsockname()[1]
        node = str(os.getpid()), str(port), fence.mode.value, _pid_namespace()
        arguments = (str(trap.secret), str(trap.loot), *node)
        command = shlex.join(("sh", "-c", _CANARY, "canary", *arguments))
        canary_policy = replace(
            policy,
            allowed_commands=frozenset({ANY_COMMAND}),
            allow_shell_operators=False,
            command_chars_max=limits.COMMAND_CHARS_MAX,
            workdir=None,
            workdir_root=None,
            profiles=(Profile.STRICT,),
        )
        request = RunRequest("canary", command, limits.RUNNER_CANARY_TIMEOUT_MS, owner_tag=tag)
        outcome = await run_command(request, canary_policy, fence, supervisors=supervisors)
        if trap.loot.exists():
            return "its canary wrote a file of the host"
        if _connected(trap.listener):
            return "its canary connected to the host"
        return _verdict(outcome)


def _pid_namespace() -> str:
    """Return the name of this process's process id namespace (pid_namespaces(7)), "" if it cannot be read."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _verdict(outcome: RunOutcome) -> str:
    if outcome.refusal is not None:
        return outcome.message
    said = outcome.stdout.strip()
    if outcome.exit_code == 0 and said == _HELD:
        return ""
    last = (said or outcome.stderr.strip() or outcome.message).splitlines()[-1]
    return f"its canary did not end as expected: {last[: limits.RUNNER_NAME_CHARS_SHOWN]}"


@contextmanager
def _trap(tag: str) -> Iterator[_Trap]:
    """Make a readable secret, a writable directory and a listening port on the host for the block."""
    place = scratch.make(tag)
    try:
        place.path.chmod(0o777)
        secret = place.path / "secret"
        secret.write_text(secrets.token_hex())
        secret.chmod(0o644)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            yield _Trap(secret, place.path / "loot", listener)
    finally:
        place.remove()


def _connected(listener: socket.socket) -> bool:
    with suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False


def _ms_since(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)
