"""One operation, wherever it has to run: in the node that owns the data dir, or right here when there is none."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Final

from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import DataDirBusyError
from crabnet.settings import Settings

_RETRY_MS_MIN: Final = 10
_RETRY_MS_SPREAD: Final = 30
_ENDLESS: Final = frozenset({"seed.run", "seed.cancel"})
"""Methods that take as long as the task, or its end, does."""


def perform(settings: Settings, method: str, params: Mapping[str, JsonValue]) -> JsonValue:
    """Do ``method`` through the control socket, or locally when no node runs; see docs/CONTROL.md for methods.

    While neither is possible, because another command owns the data dir for a moment or a node is just starting, both
    are tried again for ``settings.lock_wait_ms``; then DataDirBusyError. Raises every CrabnetError of the operation.
    """
    timeout_ms = None if method in _ENDLESS else settings.control_timeout_ms
    deadline = time.monotonic() + settings.lock_wait_ms / 1000
    while True:
        try:
            return call(settings.data_dir, method, params, timeout_ms)
        except NodeNotRunningError:
            pass
        try:
            return _locally(settings, method, params)
        except DataDirBusyError:
            if time.monotonic() >= deadline:
                raise
        # Uneven waits, so that commands started together do not keep meeting.
        time.sleep((_RETRY_MS_MIN + os.urandom(1)[0] * _RETRY_MS_SPREAD / 256) / 1000)


def _locally(settings: Settings, method: str, params: Mapping[str, JsonValue]) -> JsonValue:
    from crabnet.node.operations.oneshot import call_locally  # noqa: PLC0415 - slow to import, and not needed beside a node

    return call_locally(settings, method, dict(params))
