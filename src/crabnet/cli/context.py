"""The global options of one run, for all parts of the command line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from crabnet.cli.output import note
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.control.route import perform
from crabnet.errors import Reason, UsageError
from crabnet.plain import plain
from crabnet.settings import DEFAULT_ORIGIN, KNOBS, FlagValue, Resolved, Settings, resolve

_OF_COMMANDS: Final = frozenset({"data_dir", "namespace", "control_timeout_ms", "lock_wait_ms", "monitor_events"})
"""Settings that affect the command itself, or that are compared with those of the running node."""
_IDS: Final = frozenset({"seed_id", "bid_id", "after"})
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class State:
    """The global options of one run of ``crabnet``."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.flags: dict[str, FlagValue] = {}
        self.config: Path | None = None
        self.json = False
        self.verify_config = False
        self.dump_topology = False
        self._resolved: Resolved | None = None

    @property
    def resolved(self) -> Resolved:
        """The effective settings. Raises UsageError."""
        if self._resolved is None:
            self._resolved = resolve(self.flags, os.environ, self.config)
        return self._resolved

    @property
    def settings(self) -> Settings:
        """The effective settings. Raises UsageError."""
        return self.resolved.settings

    def set_flag(self, name: str, value: FlagValue) -> None:
        """Set a setting as if its flag had been given."""
        self.flags[name] = value
        self._resolved = None

    def again(self, after: str) -> str:
        """The command line of this run, changed so that it shows what follows ``after``."""
        words = list(self.arguments)
        while (at := next((at for at, word in enumerate(words) if word.split("=")[0] == "--after"), None)) is not None:
            del words[at : at + (1 if "=" in words[at] else 2)]
        return plain(shlex.join(["crabnet", *words, "--after", after]))

    def perform(
        self, method: str, params: Mapping[str, JsonValue], *, waits: bool = False, timeout_ms: int | None = None
    ) -> JsonValue:
        """Perform one operation of docs/CONTROL.md in the running node, or here. Raises CrabnetError.

        ``waits``: the answer may take as long as a task. ``timeout_ms``: it may take longer than the settings say.
        """
        given: dict[str, JsonValue] = {}
        for name, value in params.items():
            if name == "request_id" and value is None:
                continue
            if isinstance(value, str) and not _is_unicode(value):
                raise UsageError(f"{name} is not valid UTF-8", Reason.INVALID_ARGUMENT)
            given[name] = _plain_id(value) if isinstance(value, str) and name in _IDS else value
        self._demand_namespace()
        flags = [str(knob.flag) for knob in KNOBS if knob.name in self.flags.keys() - _OF_COMMANDS]
        return perform(self.settings, method, given, _warn, flags, waits=waits, timeout_ms=timeout_ms)

    def _demand_namespace(self) -> None:
        """Refuse a requested namespace if the running node, which would do the work, is in another one."""
        wanted = self.settings.namespace
        if self.resolved.origins["namespace"] == DEFAULT_ORIGIN:
            return
        try:
            answer = call(self.settings.data_dir, "id", {}, self.settings.control_timeout_ms)
        except NodeNotRunningError:
            return
        held = answer.get("namespace") if isinstance(answer, dict) else None
        if held != wanted:
            raise UsageError(
                f"the node that runs on {self.settings.data_dir} is in namespace {held!r}, but the settings say"
                f" {wanted!r} ({self.resolved.origins['namespace']}); use one data dir per namespace",
                Reason.WRONG_NAMESPACE,
            )


def _plain_id(text: str) -> str:
    """An id in its normal form. An id that a person pastes may have capitals, and spaces around it."""
    stripped = text.strip()
    return stripped.lower() if _UUID.fullmatch(stripped) else stripped


def _warn(line: str) -> None:
    with suppress(OSError, ValueError):
        note(plain(line))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def state_of(context: click.Context) -> State:
    """The state of this run."""
    state = context.find_root().obj
    return state if isinstance(state, State) else State([])
