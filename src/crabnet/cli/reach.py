"""The node for ``crabnet run`` and ``crabnet attach``: the one that runs on the data dir, else one in this process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from crabnet.cli.context import State
from crabnet.cli.join import find_port
from crabnet.cli.output import note
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.control.route import ignored
from crabnet.errors import DataDirBusyError, NodeTimeoutError, Reason
from crabnet.plain import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crabnet.node.passing import PassingNode

_AGAIN_S: Final = 0.05
_NODE: Final = "node"


class Reach:
    """Use it as a context manager: a node in this process ends with it.

    ``is_own`` says whether there is one.
    """

    def __init__(self, state: State, *, quiet: bool) -> None:
        self._state = state
        self._quiet = quiet
        self._own: PassingNode | None = None

    @property
    def is_own(self) -> bool:
        """True if the node is one in this process."""
        return self._own is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.leave()

    def leave(self, seed_id: str = "") -> None:
        """End a node in this process, after its worker has heard how ``seed_id`` ended, if that does not take long."""
        own, self._own = self._own, None
        if own is not None:
            own.leave(seed_id)

    def write(self, method: str, params: Mapping[str, JsonValue]) -> JsonValue:
        """Do a method that writes, once. Raises as ``call``."""
        return self.call(method, {**params, "request_id": os.urandom(16).hex()})

    def call(self, method: str, params: Mapping[str, JsonValue]) -> JsonValue:
        """The answer of the node. A node in this process is started if none runs.

        If the node ends before it answers, the next one is asked, so a method that writes must have a ``request_id``.
        Raises what the operation and entering a Node raise; DataDirBusyError if another command holds the data dir.
        """
        settings = self._state.settings
        deadline = time.monotonic() + settings.lock_wait_ms / 1000
        while True:
            try:
                answer = call(settings.data_dir, method, params, settings.control_timeout_ms)
            except NodeNotRunningError:
                if self._own is not None:
                    raise
            except NodeTimeoutError as error:
                if error.reason is not Reason.NODE_STOPPING or time.monotonic() >= deadline:
                    raise
                time.sleep(_AGAIN_S)
                continue
            else:
                if self._own is None and self._state.ignored:
                    self._state.warn(ignored(self._state.ignored))
                return answer
            try:
                self.start()
            except DataDirBusyError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_AGAIN_S)

    def start(self) -> None:
        """Start a node in this process. Raises what entering a Node raises."""
        from crabnet.node.passing import PassingNode

        find_port(self._state, tells=False)
        settings = replace(self._state.settings, auto_bid=False, auto_run=False, lock_wait_ms=0)
        own = PassingNode(settings, lambda line: None if self._quiet else note(plain(line)))
        own.__enter__()
        self._own = own

    def comes_again(self) -> bool:
        """True if the node that is gone is one that runs by itself, so that another one is likely to follow.

        A node of another command has ended with that.
        """
        try:
            hint = json.loads((self._state.settings.data_dir / "lock").read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(hint, dict) and hint.get("role") == _NODE
