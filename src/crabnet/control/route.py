"""One operation, wherever it has to run: in the node that owns the data dir, or right here when there is none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import DataDirBusyError, Reason, UsageError
from crabnet.settings import Settings

_RETRY_MS_MIN: Final = 10
_RETRY_MS_SPREAD: Final = 30
READS: Final = frozenset({"status", "id", "config", "peers", "state.vector", "seed.list", "seed.show"})
"""Methods that change nothing: without a node they read the data dir and leave it as it is."""
_WITHOUT: Final = frozenset({"seed.publish", "state.import", "config"})
"""Methods that make a data dir where there is none, or need none; others could only find nothing in it."""
_SIGNS_OF_A_DATA_DIR: Final = ("identity.key", "state.json", "state.json.bak", "journal", "archive")
_ENDLESS: Final = frozenset({"seed.run", "seed.cancel"})
"""Methods that take as long as the task, or its end, does."""


Warn = Callable[[str], None]
"""Is given lines that an operator should see at once, beside the answer."""


def perform(
    settings: Settings, method: str, params: Mapping[str, JsonValue], warn: Warn, flags: Sequence[str] = ()
) -> JsonValue:
    """Do ``method`` through the control socket, or locally when no node runs; see docs/CONTROL.md for methods.

    While neither is possible, because another command owns the data dir for a moment or a node is just starting, both
    are tried again for ``settings.lock_wait_ms``; then DataDirBusyError. A method of ``READS`` waits for nobody. Raises
    every CrabnetError of the operation, and UsageError (NO_DATA_DIR) for one that needs a data dir and finds none.

    ``flags``: those given for this command that a running node, which has the settings of its start, does not heed.
    """
    timeout_ms = None if method in _ENDLESS else settings.control_timeout_ms
    deadline = time.monotonic() + settings.lock_wait_ms / 1000
    while True:
        try:
            answer = call(settings.data_dir, method, params, timeout_ms)
            if flags:
                warn(f"the running node has the settings of its start: {', '.join(flags)} did not count")
            return answer
        except NodeNotRunningError:
            pass
        if method not in _WITHOUT:
            demand_data_dir(settings.data_dir)
        if method in READS:
            return _read(settings, method, params)
        try:
            return _locally(settings, method, params, warn)
        except DataDirBusyError:
            if time.monotonic() >= deadline:
                raise
        # Uneven waits, so that commands started together do not keep meeting.
        time.sleep((_RETRY_MS_MIN + os.urandom(1)[0] * _RETRY_MS_SPREAD / 256) / 1000)


def demand_data_dir(data_dir: Path) -> None:
    """Raises UsageError (NO_DATA_DIR) where no node has ever been."""
    if not any(_is_there(data_dir / name) for name in _SIGNS_OF_A_DATA_DIR):
        raise UsageError(
            f"no data dir at {data_dir}: `crabnet listen` and `crabnet seed publish` make one there; to use another,"
            " name it with --data-dir or CRABNET_DATA_DIR",
            Reason.NO_DATA_DIR,
        )


def _is_there(path: Path) -> bool:
    """True also for what may not be looked at: whoever reads it finds out why."""
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
