"""``crabnet seed``: all steps of a task."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Final

import click

from crabnet.cli.acceptance import Given, acceptance_options, take_acceptance
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
)
from crabnet.cli.seed_list import how_ended
from crabnet.cli.values import IdPrefix, duration_option, shown_duration
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, UsageError
from crabnet.limits import (
    EXECUTION_PICK_UP_MS_DEFAULT,
    INTEGER_MAX,
    SEED_ROWS_DEFAULT,
    SEED_ROWS_MAX,
    TIMEOUT_MS_MAX,
)
from crabnet.plain import plain

TIMEOUT_MS_DEFAULT: Final = 120_000
BID_WINDOW_MS_DEFAULT: Final = 60_000
OUTCOMES: Final = {
    "accepted": "Accepted",
    "rejected": "Rejected",
    "forfeited": "Forfeited",
    "cancelled": "Expired",
}
_SHOWN_OTHERWISE: Final = frozenset({"id", "seed_id", "stdout_base64", "stderr_base64"})
_WORKER_FAILED: Final = "worker"
"""The value of the field `failed` of a result if the worker failed, not the task."""
_NATURAL: Final = WholeNumber(0, INTEGER_MAX)
_WINDOW: Final = WholeNumber(1, TIMEOUT_MS_MAX)

seed = LazyGroup(
    "seed",
    "Publish tasks, bid for them, claim, run and settle them.",
    {name: f"crabnet.cli.seed:{name}_" for name in ("publish", "bid", "claim", "run", "cancel", "settle")}
    | {"list": "crabnet.cli.seed_list:list_", "show": "crabnet.cli.seed:show_"}
    | {"verdict": "crabnet.cli.account:verdict_"}
    | {name: f"crabnet.cli.seed_result:{name}_" for name in ("wait", "logs")},
)
_announce = click.option(
    "--announce/--no-announce", default=True, show_default=True, help="Send the envelope at once, or leave it to sync."
)
_request = click.option(
    "--request-id",
    help="Name this request. The same command with the same id is done once, and gets the first answer again.",
)


@click.command("publish", cls=Command, prints_ids=True)
@click.option("--title", required=True, help="Title of the task, one line.")
@click.option("--cmd", "command", required=True, help="The command that the worker runs.")
@click.option("--desc", "description", default="", help="Description.")
@duration_option(
    "--timeout", ms_max=TIMEOUT_MS_MAX, default=TIMEOUT_MS_DEFAULT, help_text="How long the command may run."
)
@duration_option(
    "--bid-window",
    ms_max=TIMEOUT_MS_MAX,
    default=BID_WINDOW_MS_DEFAULT,
    help_text="Bid window: how long bids are accepted, rounded up to whole seconds.",
)
@duration_option(
    "--claim-window",
    ms_max=TIMEOUT_MS_MAX,
    help_text="How long after the bid window a bid may be claimed. Default: 1h.",
)
@duration_option(
    "--exec-deadline",
    ms_max=TIMEOUT_MS_MAX,
    help_text="Time from the claim to the result. Default: the timeout plus"
    f" {shown_duration(EXECUTION_PICK_UP_MS_DEFAULT)}.",
)
@click.option("--min-price", type=_NATURAL, default=0, show_default=True, help="Lowest price that a bid may have.")
@click.option(
    "--max-bids", type=_NATURAL, default=0, show_default=True, help="Maximum number of bids that count; 0: no limit."
)
@click.option("--reward", type=_NATURAL, default=0, show_default=True, help="The reward that you offer.")
@click.option("--rules", default="", help="Rules for accepting the result, as text.")
@acceptance_options
@_announce
@_request
@click.pass_context
def publish_(context: click.Context, /, **params: Given) -> None:
    """Publish a task. Prints: seed published SEED_ID."""
    result = state_of(context).perform("seed.publish", take_acceptance(params))
    seed_id = as_text(as_object(result, "seed"), "id")
    _done(context, result, f"seed published {seed_id}", seed_id)


@click.command("bid", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.option("--price", type=_NATURAL, required=True, help="The price that you ask for.")
@click.option("--notes", default="", help="Notes for the publisher.")
@click.option("--force", is_flag=True, help="Bid even if this worker would refuse to run the command.")
@_announce
@_request
@click.pass_context
def bid_(context: click.Context, /, **params: str | int | bool | None) -> None:
    """Bid for a task. Prints: bid submitted BID_ID."""
    result = state_of(context).perform("seed.bid", params)
    bid_id = as_text(as_object(result, "bid"), "id")
    _done(context, result, f"bid submitted {bid_id}", bid_id)


@click.command("claim", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.argument("bid_id", type=IdPrefix("bid"))
@_announce
@_request
@click.pass_context
def claim_(context: click.Context, /, **params: str | bool | None) -> None:
    """Claim a bid on your own task. Prints: claim created CLAIM_ID."""
    result = state_of(context).perform("seed.claim", params)
    claim_id = as_text(as_object(result, "claim"), "id")
    _done(context, result, f"claim created {claim_id}", claim_id)


@click.command("run", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
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
    seed_id = state.full_id("seed", seed_id)
    wanted = progress if progress is not None else not state.json and sys.stderr is not None and sys.stderr.isatty()
    with told_of(state, seed_id) if wanted else nullcontext():
        result = state.perform("seed.run", {"seed_id": seed_id, **params}, waits=True)
    task = as_object(result, "result")
    if task.get("failed") == _WORKER_FAILED and not state.json:
        note("failed: worker: this worker could not run the task; the publisher learns this and may choose another one")
    result_id = as_text(task, "id")
    _done(context, result, f"task result {result_id} hash={as_text(task, 'output_hash')}", result_id)
    if state.json or state.ids_only:
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


@click.command("cancel", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
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
    line = f"seed {seed_id} withdrawn" if what == "seed" else f"seed {seed_id} cancelled {what}"
    _done(context, result, line, seed_id)


@click.command("settle", cls=Command, prints_ids=True)
@click.argument("seed_id", type=IdPrefix("seed"))
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
    settled = as_text(as_object(result, "seed"), "id")
    _done(context, result, f"seed {settled} settled as {chosen[0]}", settled)


def _demand_success(context: click.Context, seed_id: str) -> None:
    """Refuse to accept the result of a failed run without --force. Raises UsageError."""
    seed_view = as_object(state_of(context).perform("seed.show", {"seed_id": seed_id, "limit": 1}), "seed")
    ended = how_ended(seed_view)
    if ended and ended != "exit=0":
        raise UsageError(
            f"the run of seed {plain(seed_id)} failed ({ended}); give --force to accept its result, or --rejected",
            Reason.INVALID_ARGUMENT,
        )


@click.command("show", cls=Command)
@click.argument("seed_id", type=IdPrefix("seed"))
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
        for shown in follow(state_of(context), state_of(context).full_id("seed", seed_id)):
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


def _done(context: click.Context, result: JsonValue, line: str, id_: str) -> None:
    """Write what was done: an object, the id alone, or a line."""
    state = state_of(context)
    write(object_text(result) if state.json else f"{id_}\n" if state.ids_only else line + "\n")
    warnings = as_object(result).get("warnings")
    for warning in warnings if isinstance(warnings, list) and not state_of(context).json else ():
        note(f"WARNING: {plain(str(warning))}")
    told = told_delivery(as_object(result))
    if told and not state_of(context).json:
        note(told)
