"""Follows a purchase to its end for ``crabnet run`` and ``crabnet attach``: progress, output, exit code."""

from __future__ import annotations

import os
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Final, NamedTuple

import click

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.options import Command, said_by_click
from crabnet.cli.output import as_object, as_text, json_line, note, note_line, write_raw
from crabnet.cli.progress import ProgressLine
from crabnet.cli.reach import Reach
from crabnet.control.client import JsonValue, NodeNotRunningError, error_to_json, stream
from crabnet.errors import CrabnetError, ExitCode, NodeTimeoutError, Reason, RefusedError, UsageError, principal
from crabnet.plain import plain
from crabnet.signals import HELD

TICK_MS: Final = 1_000
_AWAY_S: Final = 0.2
_TO_CONCLUDE: Final = frozenset({"settled", "failed", "asks"})
_NO_DEAL: Final = frozenset({Reason.NO_BIDS.value, Reason.NO_BID_FITS.value, Reason.DEADLINE_PASSED.value})


class RunExit(IntEnum):
    """Exit codes of ``crabnet run`` and ``crabnet attach`` that are not the command's. They are never renumbered.

    A command's own code from 240 to 250, and one that no process can have, becomes ``NOT_PASSED_ON``. So no code of the
    command can be mistaken for one of these.
    """

    USAGE = 240
    NO_DEAL = 241
    REJECTED = 242
    NOT_RUN = 243
    WITHDRAWN = 244
    REFUSED = 245
    UNAVAILABLE = 246
    OUTPUT_INCOMPLETE = 247
    LEFT = 248
    INTERNAL = 249
    NOT_PASSED_ON = 250


RUN_EXITS: Final = {
    RunExit.USAGE: "an option, an argument or a setting is wrong; nothing was published",
    RunExit.NO_DEAL: "no worker has bid in time, or no bid fits; the task is withdrawn",
    RunExit.REJECTED: "a result has come and was rejected, or is disputed, and no try is left",
    RunExit.NOT_RUN: "workers have failed, or gave no result in time, as often as `--retries` allows",
    RunExit.WITHDRAWN: "the task was withdrawn, by Ctrl-C or by another command",
    RunExit.REFUSED: "the node refused it; the message says why",
    RunExit.UNAVAILABLE: "the node cannot be reached, or has ended; a task that is published goes on: `crabnet attach`",
    RunExit.OUTPUT_INCOMPLETE: "the result is there, but its output is not whole, or cannot be written",
    RunExit.LEFT: "a second Ctrl-C: the command has left, and the task goes on",
    RunExit.INTERNAL: "an unexpected error in crabnet itself",
    RunExit.NOT_PASSED_ON: "the command has ended with a code from 240 to 250, or with none that can be passed on:"
    " the line on stderr and `--json` tell it",
}
_BY_ERROR: Final = {
    ExitCode.USAGE: RunExit.USAGE,
    ExitCode.REFUSED: RunExit.REFUSED,
    ExitCode.INTERNAL: RunExit.INTERNAL,
}


class PurchaseCommand(Command):
    """A command whose exit code may be that of a command that was bought. Its own failures have codes of RunExit."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        with _own_failures(parent, f"crabnet {info_name}", args):
            delimited = "--" in args
            made = super().make_context(info_name, args, parent, **extra)
            if not delimited:
                self._demand_order(made.params.get("words") or ())
            return made

    def _demand_order(self, words: Sequence[str]) -> None:
        """Raises UsageError if an option of this command, such as a price, stands behind the command that is bought."""
        own = {name for option in self.params for name in option.opts if name.startswith("--")}
        for word in words[1:]:
            name = word.partition("=")[0]
            if name in own:
                raise UsageError(
                    f"{name} stands behind the command, so the command would get it. Options of crabnet come before the"
                    f" command; if it is meant for the command, put -- before that",
                    Reason.INVALID_ARGUMENT,
                )

    def invoke(self, ctx: click.Context) -> object:
        with _own_failures(ctx, ctx.command_path):
            return super().invoke(ctx)


class _own_failures:  # noqa: N801 - used like a function
    """Turns every error into one line on stderr that begins with ``crabnet:``, and a code of RunExit."""

    def __init__(self, context: click.Context | None, command: str, args: Sequence[str] = ()) -> None:
        """``args`` are words that click has not looked at yet. What follows ``--`` is not for this command."""
        own = [*args][: args.index("--") if "--" in args else None]
        self._json = "--json" in own or (context is not None and state_of(context).json)
        self._command = command

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is None or isinstance(error, click.exceptions.Exit | SystemExit | GeneratorExit):
            return
        first = principal(error)
        if isinstance(first, KeyboardInterrupt | click.Abort):
            raise click.exceptions.Exit(RunExit.LEFT) from None
        if isinstance(first, BrokenPipeError):
            raise click.exceptions.Exit(RunExit.OUTPUT_INCOMPLETE) from None
        if isinstance(first, click.ClickException):
            message = said_by_click(first, self._command)
            first = UsageError(message, Reason.INVALID_ARGUMENT)
        if not isinstance(first, CrabnetError):
            if os.environ.get("CRABNET_DEBUG") == "1":
                raise first
            first = CrabnetError(f"unexpected {type(first).__name__}: {first}; set CRABNET_DEBUG=1 for a traceback")
        fail(first, _BY_ERROR.get(first.exit_code, RunExit.UNAVAILABLE), as_json=self._json)


def fail(error: CrabnetError, code: RunExit, *, as_json: bool) -> None:
    """End the command with one line on stderr. Raises click's Exit."""
    said = {**error_to_json(error), "exit_code": int(code)}
    line = json_line({"error": said}) if as_json else f"crabnet: {error.reason}: {plain(error.message)}\n"
    with suppress(OSError, ValueError):
        note_line(line)
    raise click.exceptions.Exit(code)


class Ended(NamedTuple):
    """The exit code of a purchase that is over, and what to say about it on stderr; "" for nothing."""

    code: int
    said: str = ""
    reason: str | None = None


class Follower:
    """Watches the purchase of ``seed_id`` to its end. The first Ctrl-C withdraws it, the second one leaves.

    If the node ends, the next one goes on: one that runs by itself is awaited for ``lock_wait_ms``, and after one of
    another command this process has its own.
    """

    def __init__(self, state: State, seed_id: str, reach: Reach, tell: ProgressLine) -> None:
        self._state = state
        self.seed_id = seed_id
        self._reach = reach
        self._tell = tell
        self._interrupted = False
        self._tried: set[str] = set()
        self._taken_back = ""
        self._seen = ""
        self._away_since: float | None = None

    @property
    def has_told(self) -> bool:
        """True if it has said that the present task is withdrawn."""
        return self._taken_back == self.seed_id

    def run(self) -> dict[str, JsonValue]:
        """The last view of the purchase: it is over, or its operator has to settle it.

        Raises CrabnetError, and KeyboardInterrupt for the second Ctrl-C.
        """
        while True:
            try:
                HELD.release()
                shown = self._watch()
                if shown is not None:
                    return shown
            except KeyboardInterrupt:
                if self._interrupted:
                    self._leave()
                    raise
                self._interrupted = True

    def _leave(self) -> None:
        self._tell.clear()
        if self.has_told:
            note("crabnet: left: the task is withdrawn")
            return
        goes_on = "waits until a node runs here" if self._reach.is_own else "goes on"
        note(f"crabnet: left: the task {goes_on}: crabnet attach {self.seed_id}")

    def _watch(self) -> dict[str, JsonValue] | None:
        """The last view, or None if the node has ended before that."""
        try:
            self._take_back()
            wanted: dict[str, JsonValue] = {"seed_id": self.seed_id, "seen": self._seen}
            for item in stream(self._state.settings.data_dir, "purchase.watch", wanted, TICK_MS):
                self._away_since = None
                if item is None:
                    self._tell.again()
                    continue
                shown = as_object(item)
                self.seed_id, self._seen = as_text(shown, "seed_id"), as_text(shown, "mark")
                if shown.get("stage") in _TO_CONCLUDE:
                    return shown
                self._take_back()
                self._tell.show(shown)
            raise NodeTimeoutError("the node has ended the stream", Reason.NODE_STOPPING)
        except (NodeNotRunningError, NodeTimeoutError) as gone:
            self._await_node(gone)
        return None

    def _await_node(self, gone: CrabnetError) -> None:
        """Wait a moment for another node. Raises ``gone`` if none comes in time."""
        if self._reach.is_own:
            raise gone
        if not self._reach.comes_again():
            self._reach.call("id", {})
            return
        self._away_since = time.monotonic() if self._away_since is None else self._away_since
        if time.monotonic() - self._away_since > self._state.settings.lock_wait_ms / 1000:
            raise gone
        time.sleep(_AWAY_S)

    def _take_back(self) -> None:
        """After Ctrl-C, withdraw the present task, once."""
        if not self._interrupted or self.seed_id in self._tried:
            return
        self._tell.clear()
        try:
            self._reach.write("seed.cancel", {"seed_id": self.seed_id})
        except RefusedError as error:
            note(f"crabnet: not withdrawn: {plain(error.message)}; waiting for the end; Ctrl-C again leaves")
        else:
            self._taken_back = self.seed_id
            note(f"crabnet: withdrawn: the task {self.seed_id} is taken back")
        self._tried.add(self.seed_id)


def conclude(state: State, shown: dict[str, JsonValue], *, told: bool = False) -> int:
    """Write what the purchase has brought, and return the exit code. ``told``: it was said that it is withdrawn."""
    ended = _ended(shown)
    result = shown.get("result")
    if state.json:
        exit_code = result.get("exit_code") if isinstance(result, dict) and _counts(shown) else None
        write_object({**shown, "exit_code": exit_code})
    elif isinstance(result, dict) and _counts(shown):
        write_raw(_raw(result, "stdout"))
        _write_stderr(_raw(result, "stderr"))
    if ended.said and not state.json and not (told and ended.code == RunExit.WITHDRAWN):
        note(f"crabnet: {ended.said}")
    return ended.code


def _counts(shown: dict[str, JsonValue]) -> bool:
    """True if the output is worth something: the result is accepted, or its operator has to decide."""
    return shown.get("stage") in {"settled", "asks"}


def _ended(shown: dict[str, JsonValue]) -> Ended:
    seed_id, stage = as_text(shown, "seed_id"), shown.get("stage")
    if stage == "failed":
        return _failed(shown, seed_id)
    result = as_object(shown, "result")
    if result.get("stdout_truncated") or result.get("stderr_truncated"):
        return Ended(
            RunExit.OUTPUT_INCOMPLETE,
            f"output_cut: the worker has cut the output of the command, which ended with {result.get('exit_code')}",
        )
    said = ""
    if stage == "asks":
        said = f"not settled: decide with crabnet seed settle {seed_id} --accepted or --rejected"
    elif result.get("timed_out"):
        said = "the command ran longer than its timeout, and was ended"
    code = result.get("exit_code")
    if not isinstance(code, int) or not 0 <= code <= 255 or RunExit.USAGE <= code <= RunExit.NOT_PASSED_ON:
        return Ended(RunExit.NOT_PASSED_ON, f"the command ended with the exit code {code}")
    return Ended(code, said)


def _failed(shown: dict[str, JsonValue], seed_id: str) -> Ended:
    status, reason = shown.get("status"), shown.get("reason")
    detail = plain(str(shown.get("detail") or ""))
    more = f"crabnet seed show {seed_id}"
    if status == "Expired" and reason in _NO_DEAL:
        if reason == Reason.NO_BIDS.value and not shown.get("heard_by") and ":" not in detail:
            detail += ", and no other node has heard of the task: see crabnet peers; --join names a node of the network"
        return Ended(RunExit.NO_DEAL, f"{reason}: {detail}; the task {seed_id} is withdrawn")
    if status == "Expired" and reason == Reason.ATTEMPTS_EXHAUSTED.value:
        return Ended(RunExit.NOT_RUN, f"{reason}: {detail}; see {more}")
    if status == "Expired":
        because = f": {detail}" if detail else ""
        return Ended(RunExit.WITHDRAWN, f"withdrawn: the task {seed_id} was taken back{because}")
    what = "rejected" if status == "Rejected" else "disputed"
    said = f"{what}: the result is {what}: {plain(str(reason or ''))}{': ' if reason else ''}{detail}; see {more}"
    return Ended(RunExit.REJECTED, said)


def _raw(result: dict[str, JsonValue], name: str) -> bytes:
    """The bytes of an output. What a worker sends that is not base64 is taken as text."""
    encoded = result.get(f"{name}_base64")
    if encoded:
        with suppress(ValueError):
            return b64decode(str(encoded), validate=True)
    return str(result.get(name) or "").encode("utf-8", "surrogateescape")


def _write_stderr(data: bytes) -> None:
    if sys.stderr is None or not data:
        return
    sys.stderr.flush()
    sys.stderr.buffer.write(data)
    sys.stderr.buffer.flush()
