"""Performs one operation: in the node that owns the data dir, or in this process if no node runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import DataDirBusyError, Reason, UsageError
from crabnet.settings import Settings

_RETRY_MS_MIN: Final = 10
_RETRY_MS_SPREAD: Final = 30
_SIGNS_OF_A_DATA_DIR: Final = ("identity.key", "state.json", "state.json.bak", "journal", "archive")

Warn = Callable[[str], None]
"""Receives lines that an operator should see at once, besides the answer."""


def ignored(flags: Sequence[str]) -> str:
    """What to tell somebody who gives a running node the flags of its start."""
    return f"the running node keeps the settings of its start; it ignored {', '.join(flags)}"


def perform(
    settings: Settings,
    method: str,
    params: Mapping[str, JsonValue],
    warn: Warn,
    flags: Sequence[str] = (),
    *,
    waits: bool = False,
    timeout_ms: int | None = None,
) -> JsonValue:
    """Perform ``method`` through the control socket, or locally if no node runs. docs/CONTROL.md lists the methods.

    ``waits``: the answer may take as long as a task, so it is awaited without a limit. ``timeout_ms`` is
    another limit than that of the settings.

    Neither is possible while another command owns the data dir or a node is starting. Then both are tried again for
    ``settings.lock_wait_ms``; after that DataDirBusyError is raised. A method that
    the files can answer does not wait. Raises every CrabnetError of the operation. Raises UsageError (NO_DATA_DIR) if
    the method needs a data dir and there is none.

    ``flags`` are the flags of this command that a running node ignores, because it keeps the settings of its start.
    """
    limit_ms = None if waits else settings.control_timeout_ms if timeout_ms is None else timeout_ms
    deadline = time.monotonic() + settings.lock_wait_ms / 1000
    while True:
        try:
            answer = call(settings.data_dir, method, params, limit_ms)
            if flags:
                warn(ignored(flags))
            return answer
        except NodeNotRunningError:
            pass
        way = _way(method)
        if way is not None and not way.creates:
            demand_data_dir(settings.data_dir)
        if way is not None and way.without_lock:
            return _read(settings, method, params)
        if way is not None and way.needs_node:
            raise NodeNotRunningError(f"no node runs on {settings.data_dir}; start one with `crabnet listen`")
        try:
            return _locally(settings, method, params, warn)
        except DataDirBusyError:
            if time.monotonic() >= deadline:
                raise
        # Uneven waits, so that commands started together do not keep meeting.
        time.sleep((_RETRY_MS_MIN + os.urandom(1)[0] * _RETRY_MS_SPREAD / 256) / 1000)


class _Way(NamedTuple):
    """How an operation is performed when no node runs."""

    creates: bool
    without_lock: bool
    needs_node: bool


def _way(method: str) -> _Way | None:
    from crabnet.operations.model import Alone  # noqa: PLC0415 - slow to import, and not needed beside a node
    from crabnet.operations.table import BY_NAME  # noqa: PLC0415

    operation = BY_NAME.get(method)
    if operation is None:
        return None
    return _Way(operation.creates, operation.alone is Alone.READS, operation.alone is Alone.FAILS)


def demand_data_dir(data_dir: Path) -> None:
    """Raises UsageError (NO_DATA_DIR) if the directory has never been a data dir."""
    if not any(_is_there(data_dir / name) for name in _SIGNS_OF_A_DATA_DIR):
        raise UsageError(
            f"there is no data dir at {data_dir}; `crabnet run`, `crabnet work` and `crabnet listen` create it; to"
            " use another one, name it with --data-dir or CRABNET_DATA_DIR",
            Reason.NO_DATA_DIR,
        )


def _is_there(path: Path) -> bool:
    """True also for a path that may not be inspected: the code that reads it reports the reason."""
    try:
        return path.exists()
    except OSError:
        return True


def _read(settings: Settings, method: str, params: Mapping[str, JsonValue]) -> JsonValue:
    from crabnet.node.operations.reading import read_locally  # noqa: PLC0415 - slow to import, and not needed beside a node

    return read_locally(settings, method, dict(params))


def _locally(settings: Settings, method: str, params: Mapping[str, JsonValue], warn: Warn) -> JsonValue:
    from crabnet.node.operations.oneshot import call_locally  # noqa: PLC0415 - slow to import, and not needed beside a node

    return call_locally(settings, method, dict(params), warn)
