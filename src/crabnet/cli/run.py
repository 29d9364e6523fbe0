"""``crabnet run`` and ``crabnet attach``: one line to buy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import click

from crabnet.cli.acceptance import Given, acceptance_options, take_acceptance
from crabnet.cli.context import State, object_text, state_of
from crabnet.cli.join import join_option
from crabnet.cli.options import WholeNumber
from crabnet.cli.output import as_object, as_text, note, write
from crabnet.cli.progress import ProgressLine
from crabnet.cli.purchase import Follower, PurchaseCommand, conclude
from crabnet.cli.reach import Reach
from crabnet.cli.values import Duration, IdPrefix
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.control.route import demand_data_dir
from crabnet.errors import Reason, UsageError
from crabnet.limits import (
    BID_WAIT_MS_DEFAULT,
    COMMAND_CHARS_MAX,
    INTEGER_MAX,
    PURCHASE_ATTEMPTS_MAX,
    PURCHASE_PICK_UP_MS,
    TIMEOUT_MS_MAX,
    TITLE_CHARS_MAX,
)
from crabnet.plain import plain
from crabnet.signals import HELD

F = TypeVar("F", bound=Callable[..., object])
_NATURAL: Final = WholeNumber(0, INTEGER_MAX)
_RETRIES_DEFAULT: Final = 2
_WINDOW: Final = Duration(1, TIMEOUT_MS_MAX)


def command_line(words: tuple[str, ...]) -> str:
    """The command line from which the worker's lexer makes the same words. One word is a command line as it is.

    Raises UsageError.
    """
    line = words[0] if len(words) == 1 else shlex.join(words)
    if not line.strip():
        raise UsageError("the command is empty", Reason.INVALID_ARGUMENT)
    if len(line) > COMMAND_CHARS_MAX:
        raise UsageError(
            f"the command has {len(line)} characters; at most {COMMAND_CHARS_MAX} are allowed", Reason.TOO_LARGE
        )
    return line


def _shown_options(function: F) -> F:
    quiet = click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
    return quiet(function)


@click.command("run", cls=PurchaseCommand, holds_signals=True, context_settings={"allow_interspersed_args": False})
@click.option("--max-price", type=_NATURAL, help="The highest price that you pay; workers see it as the reward.")
@click.option("--min-price", type=_NATURAL, default=0, show_default=True, help="Lowest price that a bid may have.")
@click.option(
    "--award",
    type=click.Choice(["cheapest", "fastest", "best-history", "first"]),
    default="cheapest",
    show_default=True,
    help="Which bid to take: by price, by the worker's times, by its accepted results, or the first one at once.",
)
@click.option("--worker", type=IdPrefix("node"), help="Take only bids of this node.")
@click.option(
    "--bid-wait", "bid_wait_ms", type=Duration(0, TIMEOUT_MS_MAX), default=BID_WAIT_MS_DEFAULT, metavar="DURATION",
    help="How long to collect bids before one is chosen.  [default: 2s]",
)  # fmt: skip
@click.option(
    "--bid-window", "bid_window_ms", type=_WINDOW, default=60_000, metavar="DURATION",
    help="How long bids are taken at all.  [default: 60s]",
)  # fmt: skip
@click.option(
    "--timeout", "timeout_ms", type=_WINDOW, default=120_000, metavar="DURATION",
    help="How long the command may run.  [default: 120s]",
)  # fmt: skip
@click.option(
    "--retries", type=WholeNumber(0, PURCHASE_ATTEMPTS_MAX - 1), default=_RETRIES_DEFAULT, show_default=True,
    help="How often to try another worker after a failure or a rejected result.",
)  # fmt: skip
@click.option(
    "--accept",
    type=click.Choice(["auto", "never", "check"]),
    default="auto",
    show_default=True,
    help="auto: accept what meets the conditions, and everything if there are none. check: only what meets conditions."
    " never: you settle.",
)
@acceptance_options
@click.option("--title", help="Title of the task; default: the command.")
@click.option("--detach", is_flag=True, help="Print the id of the task, and leave it to the node.")
@_shown_options
@click.argument("words", metavar="COMMAND…", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(context: click.Context, /, *, words: tuple[str, ...], detach: bool, quiet: bool, **params: Given) -> None:
    """Buy one run of a command: publish it, take a bid, wait, judge, settle.

    Its output goes to stdout and stderr, and its exit code is this command's. Codes from 240 to 250 are this command's
    own, see docs/CLI.md. Options end with the first word of the command, or with --. The worker's program gets several
    words as they are; a single word is a command line. If no node runs here, this command is one until the end.

    The first Ctrl-C withdraws the task, a second one leaves at once. The task goes on in the node if this command is
    killed; `crabnet attach` takes it up again.
    """
    state = state_of(context)
    if HELD.came:
        raise KeyboardInterrupt  # nothing is published yet
    if isinstance(params["worker"], str):
        params["worker"] = state.full_id("node", params["worker"])
    wish = publication(command_line(words), params)
    if detach:
        _detach(state, wish)
        return
    with Reach(state, quiet=quiet) as reach:
        published = as_object(reach.write("seed.publish", wish))
        seed_id = as_text(as_object(published, "seed"), "id")
        code = _followed(state, seed_id, reach, quiet=quiet)
    context.exit(code)


def _detach(state: State, wish: dict[str, JsonValue]) -> None:
    """Publish a purchase and leave it to the node."""
    published = as_object(state.perform("seed.publish", wish))
    seed_id = as_text(as_object(published, "seed"), "id")
    write(object_text({"seed_id": seed_id}) if state.json else f"{seed_id}\n")
    try:
        call(state.settings.data_dir, "id", {}, state.settings.control_timeout_ms)
    except NodeNotRunningError:
        note(f"crabnet: no node runs here, so nothing is claimed yet: crabnet listen, or crabnet attach {seed_id}")


@click.command("attach", cls=PurchaseCommand, holds_signals=True)
@click.argument("seed_id", type=IdPrefix("seed"))
@_shown_options
@click.pass_context
def attach(context: click.Context, seed_id: str, quiet: bool) -> None:
    """Take up a purchase again: wait for its end, and write its output as `crabnet run` does."""
    state = state_of(context)
    demand_data_dir(state.settings.data_dir)
    with Reach(state, quiet=quiet) as reach:
        reach.call("id", {})
        code = _followed(state, state.full_id("seed", seed_id), reach, quiet=quiet)
    context.exit(code)


def publication(command: str, given: Mapping[str, Given]) -> dict[str, JsonValue]:
    """The request of ``seed.publish`` for a purchase."""
    params = take_acceptance(given)
    timeout_ms, retries = params["timeout_ms"], params["retries"]
    if not isinstance(timeout_ms, int) or not isinstance(retries, int):
        raise TypeError("click has converted these")
    return {
        "title": params["title"] or plain(command)[:TITLE_CHARS_MAX],
        "command": command,
        "timeout_ms": timeout_ms,
        "bid_window_ms": params["bid_window_ms"],
        "exec_deadline_ms": min(timeout_ms + PURCHASE_PICK_UP_MS, TIMEOUT_MS_MAX),
        "min_price": params["min_price"],
        "reward": params["max_price"] or 0,
        "acceptance": params.get("acceptance"),
        "settle_window_ms": params["settle_window_ms"],
        "terms": {
            "award": params["award"],
            "bid_wait_ms": params["bid_wait_ms"],
            "price_max": params["max_price"],
            "worker": params["worker"],
            "tries_max": retries + 1,
            "accept": params["accept"],
        },
    }


def _followed(state: State, seed_id: str, reach: Reach, *, quiet: bool) -> int:
    shows = not quiet and not state.json and sys.stderr is not None and sys.stderr.isatty()
    line = ProgressLine(shown=shows)
    follower = Follower(state, seed_id, reach, line)
    try:
        shown = follower.run()
    finally:
        line.clear()
    code = conclude(state, shown, told=follower.has_told)
    reach.leave(follower.seed_id)
    return code


run.params.insert(0, join_option())
attach.params.insert(1, join_option())
