"""``crabnet runs``, ``crabnet drain`` and ``crabnet stop``: steering a running node."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import click

from crabnet import limits
from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.listing import Row, is_wide, write_rows
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import as_list, as_object, as_text, note, write
from crabnet.cli.tables import Cell, Column, short_id
from crabnet.cli.values import duration_option
from crabnet.control.client import JsonValue, NodeProcess
from crabnet.errors import NodeTimeoutError, Reason

runs = LazyGroup(
    "runs",
    "Show the runs of this node, pause them and resume them.",
    {name: f"crabnet.cli.steering:{name}" for name in ("list", "pause", "resume")}
    | {"list": "crabnet.cli.steering:list_"},
)
_END_MARGIN_MS: Final = 60_000
"""Time for the end of a node after its runs: last results, checkpoint."""


_COLUMNS: Final = (
    Column("TASK", 0),
    Column("STAGE", 1),
    Column("FOR", 2, right=True),
    Column("COMMAND", 3, least=10),
    Column("PUBLISHER", 4),
)


@click.command("list", cls=Command, prints_ids=True)
@click.pass_context
def list_(context: click.Context) -> None:
    """List the runs of this node: those that go on, then those that wait, in the order of their turns."""
    state = state_of(context)
    answer = state.perform("run.list", {})
    if state.json:
        write_object(answer)
        return
    said = as_object(answer)
    write_rows(state, _COLUMNS, [_row(state, each) for each in as_list(answer, "runs")], "no runs")
    if said.get("draining"):
        note("the node is about to end: no run starts")
    elif said.get("paused"):
        note("runs are paused; `crabnet runs resume` lets them start again")


def _row(state: State, each: JsonValue) -> Row:
    here = as_object(as_object(each)["local_run"])
    place = f" {here['position']}" if here.get("position") else ""
    since_ms = here["since_ms"]
    since = since_ms // 1000 if isinstance(since_ms, int) else 0
    seed_id, stage, publisher = as_text(each, "seed_id"), f"{here['stage']}{place}", as_text(each, "publisher")
    command = as_text(each, "command")
    shown = str if is_wide(state) else short_id
    cells = [Cell(shown(seed_id)), Cell(stage), Cell(f"{since} s"), Cell(command), Cell(shown(publisher))]
    return Row(seed_id, f"{seed_id}  {stage}  for {since} s  {command[:200]}", cells)


@click.command("pause", cls=Command)
@click.pass_context
def pause(context: click.Context) -> None:
    """Start no further run until `crabnet runs resume`, or until the node's process ends. Running ones continue."""
    _switch(state_of(context), "runs.pause")


@click.command("resume", cls=Command)
@click.pass_context
def resume(context: click.Context) -> None:
    """Let runs start again after `crabnet runs pause`."""
    _switch(state_of(context), "runs.resume")


def _switch(state: State, method: str) -> None:
    answer = state.perform(method, {})
    if state.json:
        write_object(answer)
        return
    word = "paused" if as_object(answer).get("paused") else "not paused"
    write(f"runs are {word}: {as_text(answer, 'running')} go on, {as_text(answer, 'queued')} wait\n")


@click.command("drain", cls=Command)
@duration_option(
    "--timeout",
    ms_min=0,
    ms_max=limits.DRAIN_MS_MAX,
    help_text="How long running tasks may take before the node ends them. Default: runner_drain_ms.",
)
@click.pass_context
def drain(context: click.Context, timeout_ms: int | None) -> None:
    """End the node when its runs have ended, and wait until its process is gone.

    The node makes no bid and starts no run from now on. The exit code is 8 if the process is still there a minute
    after that time.
    """
    state = state_of(context)
    within_ms = state.settings.runner_drain_ms if timeout_ms is None else timeout_ms
    params: dict[str, JsonValue] = {} if timeout_ms is None else {"timeout_ms": timeout_ms}
    _end(state, "node.drain", params, within_ms)


@click.command("stop", cls=Command)
@click.pass_context
def stop(context: click.Context) -> None:
    """End the node soon, and wait until its process is gone. Runs that still go on are ended.

    Their results say that this worker failed. A node that drains already ends its runs at once. The exit code is 8 if
    the process is still there after a minute.
    """
    _end(state_of(context), "node.stop", {}, limits.STOP_DRAIN_MS)


def _end(state: State, method: str, params: Mapping[str, JsonValue], within_ms: int) -> None:
    began_s = time.monotonic()
    with NodeProcess(state.settings.data_dir) as process:
        answer: dict[str, JsonValue] = {}
        try:
            answer = as_object(state.perform(method, params, timeout_ms=within_ms + _END_MARGIN_MS))
        except NodeTimeoutError as error:
            if error.reason is not Reason.NODE_STOPPING:
                raise
        gone = process.wait(_END_MARGIN_MS)
    took_ms = round((time.monotonic() - began_s) * 1000)
    if not gone:
        raise NodeTimeoutError(
            f"the node (process {process.process_id}) has ended its runs, but its process is still there after"
            f" {took_ms} ms; look at its log"
        )
    if state.json:
        write_object({**answer, "process_id": process.process_id or None, "gone": True, "gone_ms": took_ms})
        return
    if answer:
        write(
            f"the node has ended after {took_ms / 1000:.1f} s: {answer.get('finished')} runs finished,"
            f" {answer.get('ended')} were ended\n"
        )
    else:
        write(f"the node has ended after {took_ms / 1000:.1f} s, before it told about its runs\n")
