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

from crabnet.cli.output import STRUCTURED, AmbiguousError, json_line, note, write
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.control.route import perform
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.limits import ID_PREFIX_CHARS_MIN
from crabnet.plain import plain
from crabnet.settings import DEFAULT_ORIGIN, KNOBS, FlagValue, Resolved, Settings, resolve

_OF_COMMANDS: Final = frozenset({"data_dir", "namespace", "control_timeout_ms", "lock_wait_ms", "monitor_events"})
"""Settings that affect the command itself, or that are compared with those of the running node."""
_IDS: Final = {"seed_id": "seed", "bid_id": "bid", "creator": "node", "worker": "node", "node_id": "node"}
"""The parameters of operations that are ids, and what they name."""
_NAMED: Final = {"seed": "task", "bid": "bid", "node": "node"}
_UNKNOWN: Final = {"seed": Reason.UNKNOWN_SEED, "bid": Reason.UNKNOWN_BID, "node": Reason.INVALID_ARGUMENT}
_PART_OF_UUID: Final = re.compile(r"[0-9A-Fa-f-]{1,35}")
_PART_OF_NODE_ID: Final = re.compile(
    r"[1-9A-HJ-NP-Za-km-z]{1,51}|[1-9A-HJ-NP-Za-km-z]{0,50}…[1-9A-HJ-NP-Za-km-z]{1,50}"
)
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class State:
    """The global options of one run of ``crabnet``."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.flags: dict[str, FlagValue] = {}
        self.config: Path | None = None
        self.json = False
        """The output is an object for programs: JSON, or YAML if ``yaml`` is true, too."""
        self.yaml = False
        self.form: str | None = None
        """The form of output that was asked for, one of ``options.FORMS``; None: it depends."""
        self.ids_only = False
        self.verify_config = False
        self.dump_topology = False
        self.typed: dict[str, str] = {}
        """Settings that another flag than their own has set, with that flag."""
        self._resolved: Resolved | None = None
        self._warned: set[str] = set()

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

    def take_form(self, form: str) -> None:
        """Take the form of output that was asked for. The last one counts."""
        self.form = form
        self.json = form in STRUCTURED
        self.yaml = form == "yaml"

    def set_flag(self, name: str, value: FlagValue) -> None:
        """Set a setting as if its flag had been given."""
        self.flags[name] = value
        self._resolved = None

    @property
    def ignored(self) -> list[str]:
        """The flags of this command that a running node ignores."""
        return [
            self.typed.get(knob.name, str(knob.flag)) for knob in KNOBS if knob.name in self.flags.keys() - _OF_COMMANDS
        ]

    def warn(self, line: str) -> None:
        """Tell something on stderr, once in this run."""
        if line not in self._warned:
            self._warned.add(line)
            with suppress(OSError, ValueError):
                note(plain(line))

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
            given[name] = value
        self._demand_namespace()
        self._complete_ids(method, given)
        short = [str(given[name]) for name in _IDS if isinstance(given.get(name), str) and _too_short(str(given[name]))]
        try:
            return perform(self.settings, method, given, self.warn, self.ignored, waits=waits, timeout_ms=timeout_ms)
        except RefusedError as error:
            if short and error.reason in _UNKNOWN.values():
                raise RefusedError(
                    f"{error.message}; the beginning of an id needs at least {ID_PREFIX_CHARS_MIN} characters",
                    error.reason,
                ) from None
            raise

    def full_id(self, kind: str, text: str, seed_id: str | None = None) -> str:
        """The whole id of a ``seed``, ``bid`` (on ``seed_id``) or ``node`` that a person gave.

        That is the id itself, its beginning (at least four characters), or ``@last``. Text that cannot be a part of an
        id stays as it is. Raises UsageError (AMBIGUOUS) that lists the candidates, and RefusedError if there is none.
        """
        text = text.strip()
        if _UUID.fullmatch(text):
            return text.lower()
        last = kind == "seed" and text.lower() == "@last"
        if not last and not (_PART_OF_NODE_ID if kind == "node" else _PART_OF_UUID).fullmatch(text):
            return text
        if not last and _too_short(text):
            return text
        answer = self.perform("id.find", {"kind": kind, "text": text, "limit": 8, **_task(seed_id)})
        page = answer if isinstance(answer, dict) else {}
        rows = page.get("found")
        found = [each for each in (rows if isinstance(rows, list) else []) if isinstance(each, dict)]
        if not found:
            what = "this node has published no task" if last else f"no {_NAMED[kind]} here has an id like {text!r}"
            raise RefusedError(f"{what}; crabnet seed list shows all tasks", _UNKNOWN[kind])
        if len(found) > 1:
            names = ("id", "status", "title")
            told = ["  ".join(str(each[name]) for name in names if each.get(name)) for each in found]
            told += ["and more"] if page.get("more") else []
            raise AmbiguousError(f"{text!r} fits several {_NAMED[kind]}s; give more characters of one:", told)
        return str(found[0].get("id"))

    def _complete_ids(self, method: str, given: dict[str, JsonValue]) -> None:
        """Put whole ids in place of what people give."""
        if method == "id.find":
            return
        kinds = {**_IDS, "after": {"seed.list": "seed", "seed.show": "bid"}.get(method)}
        for name, kind in kinds.items():
            value = given.get(name)
            if isinstance(value, str) and kind is not None:
                if kind == "node" and _too_short(value):
                    raise UsageError(
                        f"{value!r} is too short; give at least {ID_PREFIX_CHARS_MIN} characters of the node's id"
                    )
                seed_id = given.get("seed_id") if kind == "bid" else None
                given[name] = self.full_id(kind, value, seed_id if isinstance(seed_id, str) else None)

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


def _too_short(text: str) -> bool:
    """Whether text is too short for a part of an id."""
    text = text.strip().replace("…", "")
    return len(text) < ID_PREFIX_CHARS_MIN


def _task(seed_id: str | None) -> dict[str, JsonValue]:
    return {} if seed_id is None else {"seed_id": seed_id}


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


def object_text(value: JsonValue | Mapping[str, JsonValue]) -> str:
    """An answer for programs: one line of JSON, or a document of YAML if that was asked for."""
    context = click.get_current_context(silent=True)
    if context is not None and state_of(context).yaml:
        from crabnet.cli.yaml_text import yaml_document

        return yaml_document(value)
    return json_line(value)


def write_object(value: JsonValue | Mapping[str, JsonValue]) -> None:
    """Write an answer for programs to stdout."""
    write(object_text(value))
