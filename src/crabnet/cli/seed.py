"""``crabnet seed``: all steps of a task."""

from __future__ import annotations

import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Final

import click

from crabnet.cli.context import object_text, state_of, write_object
from crabnet.cli.delivery import told_delivery
from crabnet.cli.follow import follow, progress_line
from crabnet.cli.follow import progress as told_of
from crabnet.cli.options import Command, LazyGroup, WholeNumber
from crabnet.cli.output import (
    VALUE_CHARS_MAX,
    as_list,
    as_object,
    as_text,
    cut,
    note,
    plain_block,
    table,
    write,
    write_raw,
)
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.limits import (
    EXECUTION_PICK_UP_MS_DEFAULT,
    INTEGER_MAX,
    SEED_LIST_MAX,
    SEED_ROWS_DEFAULT,
    SEED_ROWS_MAX,
    TIMEOUT_MS_MAX,
)
from crabnet.plain import plain

PAGE_SEEDS: Final = SEED_LIST_MAX
"""Seeds requested at a time; fewer if the answer would be too long."""
TIMEOUT_MS_DEFAULT: Final = 120_000
BID_WINDOW_MS_DEFAULT: Final = 60_000
OUTCOMES: Final = {
    "accepted": "Accepted",
    "rejected": "Rejected",
    "forfeited": "Forfeited",
    "cancelled": "Expired",
}
_BIDDABLE: Final = {"Open": True, "Closed": False}
"""The two kinds of open tasks in ``seed list``: those that take bids, and those that wait to be claimed."""
STATUSES: Final = ("Open", "Closed", "Expired", "Claimed", "Running", "Done", "Accepted", "Rejected", "Forfeited")
_SHOWN_OTHERWISE: Final = frozenset({"id", "seed_id", "stdout_base64", "stderr_base64"})
_WORKER_FAILED: Final = "worker"
"""The value of the field `failed` of a result if the worker failed, not the task."""
_COMMAND_CHARS_MAX: Final = 100
_NATURAL: Final = WholeNumber(0, INTEGER_MAX)
_WINDOW: Final = WholeNumber(1, TIMEOUT_MS_MAX)

seed = LazyGroup(
    "seed",
    "Publish tasks, bid for them, claim, run and settle them.",
    {
        name: f"crabnet.cli.seed:{name}_"
        for name in ("publish", "bid", "claim", "run", "cancel", "settle", "list", "show", "logs")
    },
)
_announce = click.option(
    "--announce/--no-announce", default=True, show_default=True, help="Send the envelope at once, or leave it to sync."
)
_request = click.option(
    "--request-id",
    help="Name this request. The same command with the same id is done once, and gets the first answer again.",
)


@click.command("publish", cls=Command)
@click.option("--title", required=True, help="Title of the task, one line.")
@click.option("--cmd", "command", required=True, help="The command that the worker runs.")
@click.option("--desc", "description", default="", help="Description.")
@click.option(
    "--timeout-ms",
    type=_WINDOW,
    default=TIMEOUT_MS_DEFAULT,
    show_default=True,
    help="How long the command may run.",
)
@click.option(
    "--bid-window-ms",
    type=_WINDOW,
    default=BID_WINDOW_MS_DEFAULT,
    show_default=True,
    help="Bid window: how long bids are accepted, rounded up to whole seconds.",
)
@click.option(
    "--claim-window-ms", type=_WINDOW, help="How long after the bid window a bid may be claimed; default: one hour."
)
@click.option(
    "--exec-deadline-ms",
    type=_WINDOW,
    help=f"Time from the claim to the result; default: the timeout plus {EXECUTION_PICK_UP_MS_DEFAULT}.",
)
@click.option("--min-price", type=_NATURAL, default=0, show_default=True, help="Lowest price that a bid may have.")
@click.option(
    "--max-bids", type=_NATURAL, default=0, show_default=True, help="Maximum number of bids that count; 0: no limit."
)
@click.option("--reward", type=_NATURAL, default=0, show_default=True, help="The reward that you offer.")
@click.option("--rules", default="", help="Rules for accepting the result, as text.")
@_announce
@_request
@click.pass_context
def publish_(context: click.Context, /, **params: str | int | bool | None) -> None:
    """Publish a task. Prints: seed published SEED_ID."""
    result = state_of(context).perform("seed.publish", params)
    _done(context, result, f"seed published {as_text(as_object(result, 'seed'), 'id')}")


@click.command("bid", cls=Command)
@click.argument("seed_id")
@click.option("--price", type=_NATURAL, required=True, help="The price that you ask for.")
@click.option("--notes", default="", help="Notes for the publisher.")
@click.option("--force", is_flag=True, help="Bid even if this worker would refuse to run the command.")
@_announce
@_request
@click.pass_context
def bid_(context: click.Context, /, **params: str | int | bool | None) -> None:
    """Bid for a task. Prints: bid submitted BID_ID."""
    result = state_of(context).perform("seed.bid", params)
    _done(context, result, f"bid submitted {as_text(as_object(result, 'bid'), 'id')}")


@click.command("claim", cls=Command)
@click.argument("seed_id")
@click.argument("bid_id")
@_announce
@_request
@click.pass_context
def claim_(context: click.Context, /, **params: str | bool | None) -> None:
    """Claim a bid on your own task. Prints: claim created CLAIM_ID."""
    result = state_of(context).perform("seed.claim", params)
    _done(context, result, f"claim created {as_text(as_object(result, 'claim'), 'id')}")


@click.command("run", cls=Command)
@click.argument("seed_id")
@click.option(
    "--progress/--no-progress", default=None, help="Print progress on stderr; default: if stderr is a terminal."
)
@_announce
@_request
@click.pass_context
def run_(context: click.Context, /, *, progress: bool | None, seed_id: str, **params: str | bool | None) -> None:
    """Run a task that this node won. Prints: task result RESULT_ID hash=HASH, then exit code and output.

    If the maximum number of runs is reached, the command waits for its turn. Then it waits until the task ends. A task
    that fails, times out or is refused by the runner has a result, too.
    """
    state = state_of(context)
    wanted = progress if progress is not None else not state.json and sys.stderr is not None and sys.stderr.isatty()
    with told_of(state, seed_id) if wanted else nullcontext():
        result = state.perform("seed.run", {"seed_id": seed_id, **params}, waits=True)
    task = as_object(result, "result")
    if task.get("failed") == _WORKER_FAILED and not state.json:
        note("failed: worker: this worker could not run the task; the publisher learns this and may choose another one")
    _done(context, result, f"task result {as_text(task, 'id')} hash={as_text(task, 'output_hash')}")
    if state_of(context).json:
        return
    if task.get("refusal"):
        note(f"the command was not run: {as_text(task, 'refusal')}")
        return
    write(f"exit code {task.get('exit_code')} after {task.get('duration_ms')} ms\n")
    write(_block(task.get("stdout")))
    if task.get("stderr"):
        note(_block(task.get("stderr")).removesuffix("\n"))
    if task.get("timed_out"):
        note("the command timed out and was terminated")


def _block(text: JsonValue) -> str:
    """Output of a command, for people: cut, escaped, with a line feed at its end."""
    shown = plain_block(cut(text if isinstance(text, str) else "", VALUE_CHARS_MAX))
    return shown if not shown or shown.endswith("\n") else shown + "\n"


@click.command("cancel", cls=Command)
@click.argument("seed_id")
@click.option("--note", default="", help="The reason, for the worker of your task.")
@_announce
@_request
@click.pass_context
def cancel_(context: click.Context, /, **params: str | bool | None) -> None:
    """Withdraw your own task, or end this node's run of another publisher's task. Prints: seed SEED_ID WHAT.

    WHAT is one of these. `withdrawn`: your own task is withdrawn permanently, whether it is claimed or not. If a result
    has come, settle the task instead. `cancelled run`: a run was ended, and its result says so. `cancelled queued`: a
    waiting run was removed before it began.
    """
    result = state_of(context).perform("seed.cancel", params, waits=True)
    seed_id = as_text(as_object(result, "seed"), "id")
    what = as_text(result, "cancelled")
    _done(context, result, f"seed {seed_id} withdrawn" if what == "seed" else f"seed {seed_id} cancelled {what}")


@click.command("settle", cls=Command)
@click.argument("seed_id")
@click.option("--accepted", is_flag=True, help="Accept the result.")
@click.option("--rejected", is_flag=True, help="Reject the result.")
@click.option("--forfeited", is_flag=True, help="No result came in time: end the claim. Another claim may follow.")
@click.option("--cancelled", is_flag=True, help="Withdraw the task. A worker's run of it ends without a result.")
@click.option("--note", "remark", default="", help="A note for the worker.")
@click.option("--force", is_flag=True, help="Accept the result even if the run failed.")
@_announce
@_request
@click.pass_context
def settle_(
    context: click.Context,
    /,
    seed_id: str,
    remark: str,
    force: bool,
    announce: bool,
    request_id: str | None,
    **outcomes: bool,
) -> None:
    """Settle your own task in exactly one way. Prints: seed SEED_ID settled as STATUS.

    On a terminal, --force is needed to accept the result of a run that failed.
    """
    chosen = [OUTCOMES[name] for name in OUTCOMES if outcomes[name]]
    if len(chosen) != 1:
        raise UsageError(
            "give exactly one of --accepted, --rejected, --forfeited and --cancelled", Reason.INVALID_ARGUMENT
        )
    if outcomes["accepted"] and not force and sys.stdin is not None and sys.stdin.isatty():
        _demand_success(context, seed_id)
    params: dict[str, JsonValue] = {
        "seed_id": seed_id,
        "outcome": chosen[0],
        "note": remark,
        "announce": announce,
        "request_id": request_id,
    }
    result = state_of(context).perform("seed.settle", params)
    _done(context, result, f"seed {as_text(as_object(result, 'seed'), 'id')} settled as {chosen[0]}")


def _demand_success(context: click.Context, seed_id: str) -> None:
    """Refuse to accept the result of a failed run without --force. Raises UsageError."""
    seed_view = as_object(state_of(context).perform("seed.show", {"seed_id": seed_id, "limit": 1}), "seed")
    ended = _ended(seed_view)
    if ended and ended != "exit=0":
        raise UsageError(
            f"the run of seed {plain(seed_id)} failed ({ended}); give --force to accept its result, or --rejected",
            Reason.INVALID_ARGUMENT,
        )


@click.command("list", cls=Command)
@click.option(
    "--status",
    type=click.Choice(STATUSES, case_sensitive=False),
    help="Only tasks with this status. Open: tasks that take bids. Closed: tasks that wait to be claimed.",
)
@click.option("--limit", type=WholeNumber(1, INTEGER_MAX), help="Maximum number of tasks; default: all.")
@click.option("--after", metavar="SEED_ID", help="Only tasks after this one: the next page.")
@click.pass_context
def list_(context: click.Context, status: str | None, limit: int | None, after: str | None) -> None:
    """List tasks, one per line."""
    state = state_of(context)
    seeds: list[JsonValue] = []
    following: JsonValue = after
    most = PAGE_SEEDS
    chosen: dict[str, JsonValue] = {"status": status}
    if status in _BIDDABLE:
        chosen = {"biddable": _BIDDABLE[status]}
    while True:
        wanted = most if limit is None else min(most, limit - len(seeds))
        try:
            page = state.perform("seed.list", {**chosen, "limit": wanted, "after": following})
        except RefusedError as error:
            if error.reason is not Reason.LIMIT_EXCEEDED or wanted == 1:
                raise
            most = wanted // 2
            continue
        rows = as_list(page, "seeds")
        following = as_object(page).get("next")
        if not state.json:
            write("".join(map(_row, rows)))
        seeds += rows
        if following is None or not rows or (limit is not None and len(seeds) >= limit):
            break
    unreadable = as_object(page).get("unreadable")
    if unreadable:
        note(f"{unreadable} archived tasks are damaged and left out; see crabnet audit verify")
    if state.json:
        left_out: dict[str, JsonValue] = {"unreadable": unreadable} if unreadable else {}
        write_object({"seeds": seeds, "next": following, **left_out})
    elif following is not None:
        note(f"more: {state.again(str(following))}")


@click.command("show", cls=Command)
@click.argument("seed_id")
@click.option("--follow", "following", is_flag=True, help="Print a line for each change until the task is over.")
@click.option(
    "--limit",
    type=WholeNumber(1, INTEGER_MAX),
    help=f"Maximum number of bids; default: {SEED_ROWS_DEFAULT}.",
)
@click.option("--after", metavar="ID", help="Only bids after this one: the next page.")
@click.pass_context
def show_(context: click.Context, seed_id: str, following: bool, limit: int | None, after: str | None) -> None:
    """Show a task: its bids, and the claims, runs, results, settlements and acknowledgements that count.

    With `--follow`, prints one line now and one for each change until the task is accepted, rejected, expired or
    withdrawn. With `--json` each line is one object. This needs a running node, unless the task is over.
    """
    if following and (limit is not None or after is not None):
        raise UsageError("--follow cannot be combined with --limit or --after; leave them out", Reason.INVALID_ARGUMENT)
    if following:
        for shown in follow(state_of(context), seed_id):
            write(object_text(shown) if state_of(context).json else progress_line(shown) + "\n")
        return
    shown = _shown(context, seed_id, SEED_ROWS_DEFAULT if limit is None else limit, after)
    if state_of(context).json:
        write_object(shown)
        return
    write(table(as_object(shown, "seed")))
    here = shown.get("local_run")
    if here is not None:
        write("\nrun on this node\n" + "".join(f"  {row}\n" for row in table(here).splitlines()))
    for name in ("claims", "runs", "results", "settlements", "acknowledgements", "bids"):
        for item in as_list(shown, name):
            write(f"\n{name.removesuffix('s')} {as_text(item, 'id')}\n")
            write("".join(f"  {row}\n" for row in table(item, skip=_SHOWN_OTHERWISE).splitlines()))
    if shown.get("next") is not None:
        note(f"more: {state_of(context).again(str(shown['next']))}")


@click.command("logs", cls=Command)
@click.argument("seed_id")
@click.option("--stderr", "from_stderr", is_flag=True, help="Write standard error instead of standard output.")
@click.pass_context
def logs_(context: click.Context, seed_id: str, from_stderr: bool) -> None:
    """Write the output of a task to stdout, with exactly the bytes that its result contains.

    If the result does not contain the whole output, a line on stderr says so.
    """
    state = state_of(context)
    shown = as_object(state.perform("seed.show", {"seed_id": seed_id, "limit": 1}))
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


def _shown(context: click.Context, seed_id: str, limit: int, after: str | None) -> dict[str, JsonValue]:
    """The answer of ``seed.show``. It combines as many pages as ``limit`` bids need."""
    perform = state_of(context).perform
    bids: list[JsonValue] = []
    following: JsonValue = after
    while True:
        wanted = min(SEED_ROWS_MAX, limit - len(bids))
        shown = as_object(perform("seed.show", {"seed_id": seed_id, "limit": wanted, "after": following}))
        bids += as_list(shown, "bids")
        following = shown.get("next")
        if following is None or len(bids) >= limit:
            return {**shown, "bids": bids}


def _row(seed_view: JsonValue) -> str:
    members = as_object(seed_view)
    status = as_text(seed_view, "status").upper()
    further = [_ended(members)]
    if members.get("biddable"):
        further.append(f"bids_until={_utc(members.get('bid_deadline_ts'))}")
    elif status == "OPEN" and members.get("biddable") is False:
        status = "CLOSED"
    words = [
        f"{as_text(seed_view, 'id')} [{status}] cmd={cut(as_text(seed_view, 'command'), _COMMAND_CHARS_MAX)}",
        f"timeout={as_text(seed_view, 'timeout_ms')}ms reward={as_text(seed_view, 'reward')}",
        *further,
    ]
    return " ".join(word for word in words if word) + "\n"


def _ended(seed_view: Mapping[str, JsonValue]) -> str:
    """How the run whose result counts has ended; "" if there is none."""
    if seed_view.get("failed") == _WORKER_FAILED:
        return f"failed=worker:{plain(str(seed_view.get('refusal') or seed_view.get('exit_code')))}"
    if seed_view.get("refusal"):
        return f"refused={plain(str(seed_view['refusal']))}"
    if seed_view.get("timed_out"):
        return "exit=timeout"
    return "" if seed_view.get("exit_code") is None else f"exit={seed_view['exit_code']}"


def _utc(seconds: JsonValue) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds if isinstance(seconds, int) else 0))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _done(context: click.Context, result: JsonValue, line: str) -> None:
    write(object_text(result) if state_of(context).json else line + "\n")
    warnings = as_object(result).get("warnings")
    for warning in warnings if isinstance(warnings, list) and not state_of(context).json else ():
        note(f"WARNING: {plain(str(warning))}")
    told = told_delivery(as_object(result))
    if told and not state_of(context).json:
        note(told)
