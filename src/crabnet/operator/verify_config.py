"""``crabnet config verify``: checks whether a node with these settings would start here and do its work.

It changes nothing. To check that a directory is writable, it creates a small file and removes it. To check an address,
it binds the address and releases it. It sends hellos to configured peers, from a temporary port and with a temporary
key.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from crabnet import limits
from crabnet.access.file import TokenFile
from crabnet.control.client import NodeNotRunningError, call
from crabnet.errors import (
    CrabnetError,
    NetworkError,
    Reason,
    RefusedError,
    StorageFailedError,
    UsageError,
)
from crabnet.node.config import runner_policy, sandbox_report
from crabnet.operations.access import TokenState
from crabnet.operator.check import Check, Situation, Step, Verdict
from crabnet.operator.probing import peers
from crabnet.operator.verify_alerts import alerts
from crabnet.operator.verify_dht import dht
from crabnet.operator.verify_start import ledger, process, state_dir
from crabnet.operator.verify_web import web
from crabnet.runner.policy import ANY_COMMAND
from crabnet.runner.sandbox.model import Choice, Mode
from crabnet.runner.workdir import find_executable
from crabnet.settings import Settings
from crabnet.source import for_everybody, udp_source
from crabnet.storage.files import Files, OpenMode, guarded, opened, storage_failed, write_all
from crabnet.storage.keyfile import load_key_file
from crabnet.transport.base import parse_address
from crabnet.transport.interfaces import interfaces
from crabnet.transport.resolver import Endpoint, Resolver
from crabnet.transport.udp import UdpTransport

_PROBE: Final = b"crabnet config verify\n"
_BUILT_IN: Final = frozenset({"cd"})


def verify_config(settings: Settings, files: Files) -> list[Check]:
    """All checks that are possible without starting a node. Blocks for name lookups. Raises nothing."""
    running, checks = _live(settings)
    for step in STEPS:
        try:
            checks += step(Situation(settings, files, running))
        except CrabnetError as error:
            checks.append(Check(step.__name__.strip("_"), Verdict.FAILED, error.message, error))
    return checks


def _live(settings: Settings) -> tuple[bool, list[Check]]:
    """Whether a node runs on the data dir. Then the checks do not try again what this node holds."""
    try:
        call(settings.data_dir, "id", {}, settings.control_timeout_ms)
    except NodeNotRunningError:
        return False, []
    except CrabnetError as error:
        return True, [Check("node", Verdict.WARNING, f"a node runs here, but does not answer: {error.message}")]
    return True, [Check("node", Verdict.OK, "a node runs on this data dir; it keeps the settings it was started with")]


def _data_dir(at: Situation) -> Iterator[Check]:
    path = at.settings.data_dir
    yield _writable("data_dir", path, at.files)
    if not path.is_dir():
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IWGRP:
        detail = f"{path} has mode {mode:04o}, so its group can replace its files; run chmod 700 on it"
        yield Check("data_dir", Verdict.WARNING, detail)
    if load_key_file(at.files, path) is not None:
        yield Check("identity", Verdict.OK, "the key exists, and only its owner can read it")
    free = at.files.free_bytes(path)
    if free < limits.DISK_FREE_LOW_BYTES:
        yield Check("disk", Verdict.WARNING, f"only {free} bytes are free; a node stops if the disk is full")


def _events(at: Situation) -> Iterator[Check]:
    yield _writable("monitor_events", at.settings.monitor_events.parent, at.files)


def _writable(name: str, path: Path, files: Files) -> Check:
    """Whether files in a directory can be created, locked and made durable, or the directory itself can be created."""
    if not path.exists():
        return _can_be_made(name, path, files)
    probe = path / f".verify-{os.getpid()}"
    try:
        with guarded("write a file", path):
            try:
                with opened(files, probe, OpenMode.REPLACE) as fd:
                    write_all(files, fd, _PROBE, 0)
                    files.fsync(fd)
                    if not files.try_lock(fd):
                        raise StorageFailedError(
                            f"file locks do not work in {path}; use another file system", Reason.LOCKS_UNSUPPORTED
                        )
            finally:
                with suppress(FileNotFoundError):
                    files.unlink(probe)
    except CrabnetError as error:
        return Check(name, Verdict.FAILED, error.message, error)
    return Check(name, Verdict.OK, f"{path} can be written")


def _can_be_made(name: str, path: Path, files: Files) -> Check:
    while not path.parent.exists():
        path = path.parent
    try:
        files.mkdir(path)
        path.rmdir()
    except OSError as failed:
        error = storage_failed(failed, "create the directory", path)
        return Check(name, Verdict.FAILED, error.message, error)
    return Check(name, Verdict.OK, f"{path} does not exist yet and can be created")


def _listen(at: Situation) -> Iterator[Check]:
    name = "listen_addr"
    if not at.settings.uses_udp:
        return
    if at.running:
        yield Check(name, Verdict.OK, f"{at.settings.listen_addr} is not tried, because a node runs on this data dir")
        return
    try:
        granted, unserved = trio.run(_bind, at.settings)
    except CrabnetError as error:
        yield Check(name, Verdict.FAILED, error.message, error)
        return
    yield Check(name, Verdict.OK, f"{','.join(at.settings.listen_addrs)} can be bound")
    if unserved:
        yield Check(name, Verdict.WARNING, unserved)
    if granted < at.settings.udp_receive_buffer_bytes:
        yield Check(
            "udp_receive_buffer_bytes",
            Verdict.WARNING,
            f"the kernel grants {granted} of {at.settings.udp_receive_buffer_bytes} bytes, so bursts may be lost and"
            f" need sync; raise net.core.rmem_max",
        )


async def _bind(settings: Settings) -> tuple[int, str]:
    """The size of the receive buffer that the kernel grants, and a message about what is not served."""
    addresses = [parse_address(each) for each in settings.listen_addrs]
    size = settings.udp_receive_buffer_bytes
    async with await UdpTransport.open(*addresses, receive_buffer_bytes=size) as transport:
        return transport.receive_buffer_bytes, transport.unserved


def _targets(at: Situation) -> Iterator[Check]:
    wanted = [("announce_addrs", each) for each in at.settings.udp_announce_addrs]
    wanted += [("bootstrap_peers", each) for each in at.settings.udp_bootstrap_peers]
    if not wanted and not at.settings.uses_udp:
        return
    if not wanted:
        detail = "there is no address to send to, so no other node learns what is published here; set one"
        yield Check("announce_addrs", Verdict.WARNING, detail)
        return
    reached = 0
    found: list[Check] = []
    for name, text in wanted:
        try:
            endpoint = trio.run(Resolver().resolve, parse_address(text))
            if not (for_everybody(udp_source(text)) and interfaces()):
                _route(endpoint)
        except (CrabnetError, OSError) as error:
            why = error.message if isinstance(error, CrabnetError) else f"{text}: {error.strerror or error}"
            found.append(Check(name, Verdict.WARNING, why))
        else:
            reached += 1
            found.append(Check(name, Verdict.OK, f"{text} has a route"))
    yield from found
    if not reached:
        unreachable = NetworkError("none of the addresses to send to is reachable", Reason.ADDRESS_INVALID)
        yield Check("announce_addrs", Verdict.FAILED, unreachable.message, unreachable)


def _route(endpoint: Endpoint) -> None:
    """Ask the kernel for a route. ``connect`` on a datagram socket sends nothing. Raises OSError."""
    with socket.socket(endpoint.family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        probe.connect(endpoint.sockaddr)


def _runner(at: Situation) -> Iterator[Check]:
    policy = runner_policy(at.settings)
    if not policy.allowed_commands:
        yield Check("runner_allowed_commands", Verdict.WARNING, "no command is allowed, so this node runs no tasks")
    wanted = sorted(policy.allowed_commands - _BUILT_IN - {ANY_COMMAND})
    missing = [name for name in wanted if find_executable(policy, name, at.settings.data_dir) is None]
    if missing:
        detail = f"allowed commands that are not in {':'.join(policy.search_path)}: {', '.join(missing)}"
        yield Check("runner_allowed_commands", Verdict.WARNING, detail)
    elif wanted:
        yield Check("runner_allowed_commands", Verdict.OK, f"{len(wanted)} commands are allowed and exist")
    for name, path in (("runner_workdir_root", policy.workdir_root), ("runner_workdir", policy.workdir)):
        if path is None:
            continue
        if not path.is_dir():
            error = UsageError(f"{name} = {path} is not a directory", Reason.WORKDIR_MISSING)
            yield Check(name, Verdict.FAILED, error.message, error)
        else:
            yield _writable(name, path, at.files)


def _sandbox(at: Situation) -> Iterator[Check]:
    """Check the sandbox of this machine. Canaries try to escape from it."""
    name = "runner_sandbox"
    report = sandbox_report(at.settings)
    if report.fence is None:
        error = RefusedError(report.detail, Reason.SANDBOX_UNAVAILABLE)
        # A node that only publishes needs no sandbox, so this alone does not prevent its start.
        verdict = Verdict.WARNING if report.choice is Choice.AUTO else Verdict.FAILED
        yield Check(name, verdict, report.detail, error)
        return
    confined = report.mode != Mode.NONE.value
    yield Check(name, Verdict.OK if confined else Verdict.WARNING, report.summary)


def _access(at: Situation) -> Iterator[Check]:
    """Who may use the HTTP door."""
    tokens = TokenFile(at.files, at.settings.data_dir).read()
    now_s = int(time.time())
    valid = sum(token.state(now_s) is TokenState.VALID for token in tokens)
    yield Check("tokens", Verdict.OK, f"{valid} of {len(tokens)} are valid")
    if not at.settings.web_api_auth_required:
        detail = "false: everybody who reaches the HTTP address may read everything that the node shows"
        yield Check("web_api_auth_required", Verdict.WARNING, detail)


STEPS: Final[tuple[Step, ...]] = (
    process, _data_dir, ledger, state_dir, _events, _listen, _targets, peers, dht, _runner, _sandbox, _access, web,
    alerts,
)  # fmt: skip
"""The checks, in the order in which they are shown."""
