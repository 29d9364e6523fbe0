"""``crabnet seed wait`` and ``crabnet seed logs``: waiting for a task, and the output of its command."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from typing import Final

import click

from crabnet.cli.context import State, object_text, state_of, write_object
from crabnet.cli.follow import FINAL, follow, progress_line
from crabnet.cli.options import Command
from crabnet.cli.output import as_list, as_object, as_text, note, write, write_raw
from crabnet.cli.values import Duration, IdPrefix
from crabnet.control.client import JsonValue
from crabnet.errors import NodeTimeoutError, Reason, RefusedError
from crabnet.limits import TIMEOUT_MS_MAX
from crabnet.plain import plain

_COURSE: Final = ("Claimed", "Running", "Done", "Accepted", "Rejected")
"""The course of a task. One that is further has been here, too."""
_ENDS: Final = frozenset({"Accepted", "Rejected"})
_AWAITED: Final = (*_COURSE, "Settled", "Forfeited", "Expired", "Disputed")


@click.command("wait", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.option(
    "--for",
    "awaited",
    type=click.Choice(_AWAITED, case_sensitive=False),
    help="Wait for this status, or one that comes after it. Settled: Accepted or Rejected. Default: until it is over.",
)
@click.option("--timeout", "timeout_ms", type=Duration(0, TIMEOUT_MS_MAX), help="How long to wait. Default: no limit.")
@click.pass_context
def wait_(context: click.Context, seed_id: str, awaited: str | None, timeout_ms: int | None) -> None:
    """Wait until a task is over, or has a status. Prints: SEED_ID [STATUS] and more.

    The exit code is 0 when it has come to that, 3 if the task is over without it, and 8 after --timeout.
    """
    state = state_of(context)
    seed_id = state.full_id("seed", seed_id)
    deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
    status = "unknown"
    try:
        for shown in follow(state, seed_id, deadline):
            status = as_text(as_object(shown, "seed"), "status")
            if _reached(status, awaited):
                write(f"{seed_id}\n" if state.ids_only else _told(state, shown))
                return
            if status in FINAL:
                break
    except NodeTimeoutError as error:
        if error.reason is not Reason.TIMEOUT or deadline is None or time.monotonic() < deadline:
            raise
        raise NodeTimeoutError(f"the task {plain(seed_id)} is still {status}", Reason.TIMEOUT) from None
    raise RefusedError(f"the task {plain(seed_id)} is {status}: it is over, without {awaited}", Reason.WRONG_STATE)


def _told(state: State, shown: dict[str, JsonValue]) -> str:
    return object_text(shown) if state.json else progress_line(shown) + "\n"


def _reached(status: str, awaited: str | None) -> bool:
    if awaited is None:
        return status in FINAL
    if awaited == "Settled":
        return status in _ENDS
    if awaited in _COURSE and awaited not in _ENDS and status in _COURSE:
        return _COURSE.index(status) >= _COURSE.index(awaited)
    return status == awaited


@click.command("logs", cls=Command)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.option("--stderr", "from_stderr", is_flag=True, help="Write standard error instead of standard output.")
@click.option("--follow", "-f", "following", is_flag=True, help="Wait for the result first.")
@click.pass_context
def logs_(context: click.Context, seed_id: str, from_stderr: bool, following: bool) -> None:
    """Write the output of a task to stdout, with exactly the bytes that its result contains.

    If the result does not contain the whole output, a line on stderr says so.
    """
    state = state_of(context)
    seed_id = state.full_id("seed", seed_id)
    shown = _with_result(state, seed_id) if following else _now(state, seed_id)
    results = as_list(shown, "results")
    if not results:
        raise RefusedError(f"seed {plain(seed_id)} has no result", Reason.WRONG_STATE)
    wanted = as_object(shown, "seed").get("result_id")
    result = next((each for each in map(as_object, results) if each.get("id") == wanted), as_object(results[-1]))
    name = "stderr" if from_stderr else "stdout"
    encoded, text = result.get(f"{name}_base64"), result.get(name)
    raw = b64decode(encoded) if isinstance(encoded, str) and encoded else str(text or "").encode()
    if state.json:
        write_object({"seed_id": seed_id, "stream": name, "base64": b64encode(raw).decode()})
    else:
        write_raw(raw)
    if result.get(f"{name}_truncated"):
        note(f"the worker has cut {name}; this is only its beginning")


def _now(state: State, seed_id: str) -> dict[str, JsonValue]:
    return as_object(state.perform("seed.show", {"seed_id": seed_id, "limit": 1}))


def _with_result(state: State, seed_id: str) -> dict[str, JsonValue]:
    """The task as soon as it has the result of its current attempt, or is over."""
    shown = _now(state, seed_id)
    if as_object(shown, "seed").get("result_id") is None:
        for shown in follow(state, seed_id):
            if as_object(shown, "seed").get("result_id") is not None:
                break
    return shown
