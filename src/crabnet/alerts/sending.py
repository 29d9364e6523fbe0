"""Tries to give a message to a target, within a time, in a process that is ended after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec
import trio
from msgspec import Struct

from crabnet import limits
from crabnet.alerts.messages import Message, encoded, title_of
from crabnet.alerts.targets import Target
from crabnet.child import python_command
from crabnet.errors import Reason

_ENTRY: Final = "crabnet.alerts.attempt:main"
ENVIRONMENT: Final = ("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH")
"""The variables that a try gets of the environment."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How a try went. Without a ``reason``, the target has taken the message."""

    reason: Reason | None = None
    detail: str = ""
    ask_ms: int = 0
    """The target asks for this pause before the next try."""


class Sending(Struct, frozen=True, kw_only=True):
    """How messages are sent."""

    signing_secret: str | None
    timeout_ms: int


async def send(target: Target, message: Message, how: Sending) -> Outcome:
    """Try once. Call it in the thread that ends last, because the process of the try dies with that. Raises nothing."""
    order = {
        "way": target.way.value,
        "secret": target.secret,
        "body": encoded(message).decode(),
        "title": title_of(message),
        "text": message.text,
        "id": message.id,
        "signing_secret": how.signing_secret or "",
        "parent": str(os.getpid()),
    }
    try:
        process = _started()
    except OSError as error:
        return Outcome(reason=Reason.SPAWN_FAILED, detail=f"no process can be started: {error.strerror}")
    said = b""
    try:
        with trio.move_on_after(how.timeout_ms / 1000) as limit:
            said = await _exchange(process, json.dumps(order).encode())
    finally:
        _end(process)
    if limit.cancelled_caught:
        return Outcome(reason=Reason.TIMEOUT, detail=f"it took longer than {how.timeout_ms} ms")
    try:
        return msgspec.json.decode(said, type=Outcome)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Outcome(reason=Reason.INTERNAL, detail="the process of the try ended without a word")


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_command(_ENTRY),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env=_environment(os.environ),
    )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {"LANG": "C.UTF-8", **{name: environ[name] for name in ENVIRONMENT if name in environ}}


async def _exchange(process: subprocess.Popen[bytes], order: bytes) -> bytes:
    """Give the order, and read what the process says until it ends."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the process has no pipes")
    async with trio.lowlevel.FdStream(os.dup(process.stdin.fileno())) as stdin:
        process.stdin.close()
        with suppress(trio.BrokenResourceError):
            await stdin.send_all(order)
    said = bytearray()
    async with trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as stdout:
        async for chunk in stdout:
            said += chunk
            if b"\n" in chunk or len(said) > limits.ALERT_OUTCOME_BYTES_MAX:
                break
    return bytes(said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its group. It is not reaped before that, so the number is still its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
