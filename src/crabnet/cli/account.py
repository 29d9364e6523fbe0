"""``crabnet account`` and ``crabnet seed verdict``: what the facts say about authors and results."""

from __future__ import annotations

from typing import Final

import click

from crabnet.cli.context import state_of, write_object
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import as_list, as_object, as_text, note, plain_block, write
from crabnet.cli.tables import short_id
from crabnet.cli.values import IdPrefix
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, UsageError
from crabnet.limits import ACCOUNT_LIST_MAX, INTEGER_MAX
from crabnet.plain import plain

_AS_WORKER: Final = (
    ("earned", "earned"),
    ("owed", "owed: results that are not settled yet"),
    ("won", "bids that were claimed"),
    ("in_time", "results in time"),
    ("late", "results after the deadline"),
    ("accepted", "accepted"),
    ("rejected", "rejected"),
    ("forfeited", "forfeited: no result in time"),
    ("failed", "failed: refused, interrupted or lost"),
    ("awaiting", "results that await a settlement"),
    ("overdue", "of them overdue"),
    ("accepted_share", "share of accepted results"),
    ("median_result_s", "median time from claim to result"),
)
_AS_PUBLISHER: Final = (
    ("spent", "spent"),
    ("committed", "committed: prices of claims that are not over"),
    ("published", "tasks published"),
    ("open", "of them open"),
    ("withdrawn", "withdrawn or expired"),
    ("awarded", "bids claimed"),
    ("accepted", "results accepted"),
    ("rejected", "results rejected"),
    ("forfeited", "attempts forfeited"),
    ("failed", "attempts in which the worker failed"),
    ("awaiting", "results to settle"),
    ("overdue", "of them overdue"),
    ("settled_late", "settled late"),
    ("settled_share", "share settled in time"),
    ("median_claim_s", "median time from publication to claim"),
    ("median_settlement_s", "median time from result to settlement"),
)


@click.command("account", cls=Command, prints_ids=True)
@click.argument("author", required=False, type=IdPrefix("node"))
@click.option("--all", "everybody", is_flag=True, help="A line for each author that this node knows.")
@click.option("--limit", type=WholeNumber(1, INTEGER_MAX), help="With --all: maximum number of authors; default: all.")
@click.pass_context
def account(context: click.Context, author: str | None, everybody: bool, limit: int | None) -> None:
    """Show what a node has earned, is owed, has spent, and how it works and settles. Default: your own node.

    Everything follows from the facts of all tasks, so nodes with the same tasks show the same numbers.
    """
    state = state_of(context)
    if everybody and author is not None:
        raise UsageError("give a node or --all, not both", Reason.INVALID_ARGUMENT)
    if limit is not None and not everybody:
        raise UsageError("--limit is for --all", Reason.INVALID_ARGUMENT)
    if everybody:
        _list(context, limit)
        return
    params: dict[str, JsonValue] = {} if author is None else {"author": state.full_id("node", author)}
    shown = as_object(state.perform("account.show", params))
    if state.json:
        write_object(shown)
    elif state.ids_only:
        write(f"{as_text(shown, 'author')}\n")
    else:
        write("".join(_page(shown)))
        _tell_incomplete(shown)


def _page(shown: dict[str, JsonValue]) -> list[str]:
    lines = [f"node {as_text(shown, 'author')}\n"]
    if shown.get("forked"):
        lines.append("WARNING: this node has signed two envelopes for one place of its feed\n")
    for title, name, rows in (("as a worker", "worker", _AS_WORKER), ("as a publisher", "publisher", _AS_PUBLISHER)):
        values = as_object(shown, name)
        if not any(values.get(member) for member, _ in rows):
            lines.append(f"\n{title}: nothing yet\n")
            continue
        lines.append(f"\n{title}\n")
        lines += [f"  {text:<46} {_value(member, values.get(member))}\n" for member, text in rows]
    return lines


def _value(member: str, value: JsonValue) -> str:
    if value is None:
        return "-"
    if member.endswith("_share") and isinstance(value, int | float):
        return f"{value * 100:.0f} %"
    return f"{value} s" if member.endswith("_s") else str(value)


def _list(context: click.Context, limit: int | None) -> None:
    state = state_of(context)
    rows: list[JsonValue] = []
    following: JsonValue = None
    while True:
        wanted = ACCOUNT_LIST_MAX if limit is None else min(ACCOUNT_LIST_MAX, limit - len(rows))
        page = as_object(state.perform("account.list", {"limit": wanted, "after": following}))
        found = as_list(page, "accounts")
        rows += found
        following = page.get("next")
        if not state.json:
            write("".join(_row(row, ids_only=state.ids_only) for row in found))
        if following is None or (limit is not None and len(rows) >= limit):
            break
    if state.json:
        write_object({"accounts": rows, "next": following, "complete": page.get("complete")})
    elif not state.ids_only:
        _tell_incomplete(page)


def _row(row: JsonValue, *, ids_only: bool) -> str:
    author, worker, publisher = as_text(row, "author"), as_object(row, "worker"), as_object(row, "publisher")
    if ids_only:
        return f"{author}\n"
    words = [f"{name}={_value(name, worker.get(name))}" for name in ("earned", "owed", "accepted", "accepted_share")]
    words += [
        f"{name}={_value(name, publisher.get(name))}" for name in ("spent", "published", "overdue", "settled_share")
    ]
    forked = " forked" if as_object(row).get("forked") else ""
    return f"{author} {' '.join(words)}{forked}\n".replace(" %", "%")


def _tell_incomplete(shown: dict[str, JsonValue]) -> None:
    if not shown.get("complete"):
        note("the node has just started and still counts its archive: the numbers will grow")


@click.command("verdict", cls=Command)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.option("--run-check", is_flag=True, help="Run the check of the task in this node's sandbox.")
@click.pass_context
def verdict_(context: click.Context, seed_id: str, run_check: bool) -> None:
    """Judge the result of a task by its conditions. Prints: JUDGEMENT: what the reason is.

    JUDGEMENT is accept, reject, or ask if the result cannot tell. Every node computes the same. Nothing is settled.
    """
    state = state_of(context)
    params: dict[str, JsonValue] = {"seed_id": state.full_id("seed", seed_id)}
    judged = as_object(state.perform("seed.check" if run_check else "seed.verdict", params, waits=run_check))
    if state.json:
        write_object(judged)
        return
    write(f"{as_text(judged, 'judgement')}: {as_text(judged, 'detail')} ({as_text(judged, 'reason')})\n")
    conditions = judged.get("acceptance")
    for name, value in conditions.items() if isinstance(conditions, dict) else ():
        write(f"  {name} {_condition(value)}\n")
    output = as_object(judged, "check").get("output") if judged.get("check") is not None else ""
    if output:
        note(f"the check wrote: {plain_block(str(output))}")


def _condition(value: JsonValue) -> str:
    if isinstance(value, list):
        return ", ".join(f"{as_text(each, 'name')} {short_id(as_text(each, 'sha256'))}" for each in value)
    return plain(str(value))
