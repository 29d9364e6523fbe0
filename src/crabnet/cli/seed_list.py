"""``crabnet seed list``: tasks as lines, as a table, or as ids."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

import click

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.listing import Row, as_table, is_wide, write_rows
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import as_list, as_object, as_text, cut, note
from crabnet.cli.tables import Cell, Column, Style, short_id
from crabnet.cli.values import MOMENT_HELP, IdPrefix, Moment
from crabnet.control.client import JsonValue
from crabnet.errors import Reason, RefusedError, UsageError
from crabnet.limits import FILTER_TEXT_CHARS_MAX, INTEGER_MAX, SEED_LIST_MAX
from crabnet.plain import plain

PAGE_SEEDS: Final = SEED_LIST_MAX
"""Seeds requested at a time; fewer if the answer would be too long."""
STATUSES: Final = ("Open", "Closed", "Expired", "Claimed", "Running", "Done", "Accepted", "Rejected", "Forfeited")
_BIDDABLE: Final = {"Open": True, "Closed": False}
"""The two kinds of open tasks in ``seed list``: those that take bids, and those that wait to be claimed."""
_COMMAND_CHARS_MAX: Final = 100
_WORKER_FAILED: Final = "worker"
_NEXT: Final = {"Open": "to claim", "Forfeited": "to claim", "Claimed": "to run", "Done": "to settle"}
"""What the operator of this node has to do next with a task of this status, if it is the operator's turn."""
_STYLES: Final = {
    "Open": Style.WAITS,
    "Claimed": Style.WAITS,
    "Running": Style.WAITS,
    "Done": Style.GOOD,
    "Accepted": Style.GOOD,
    "Rejected": Style.BAD,
    "Forfeited": Style.BAD,
    "Disputed": Style.BAD,
}
_COLUMNS: Final = (
    Column("ID", 0),
    Column("STATUS", 1),
    Column("TITLE", 2, least=10),
    Column("PRICE", 3, right=True),
    Column("BIDS", 4, right=True),
    Column("AGE", 5, right=True),
    Column("CREATOR", 6),
)
_WIDE: Final = (*_COLUMNS, Column("WORKER", 7), Column("ENDED", 8), Column("COMMAND", 9))


@click.command("list", cls=Command, prints_ids=True)
@click.option(
    "--status",
    type=click.Choice(STATUSES, case_sensitive=False),
    help="Only tasks with this status. Open: tasks that take bids. Closed: tasks that wait to be claimed.",
)
@click.option("--mine/--others", "mine", default=None, help="Only tasks that this node has published, or only others.")
@click.option("--creator", type=IdPrefix("node"), help="Only tasks that this node has published.")
@click.option("--worker", type=IdPrefix("node"), help="Only tasks that this node has won.")
@click.option("--biddable", is_flag=True, help="Only tasks that take bids. The same as --status open.")
@click.option("--needs-me", is_flag=True, help="Only tasks that wait for you: to claim a bid, to run, to settle.")
@click.option("--since", type=Moment(), help=f"Only tasks published since {MOMENT_HELP}")
@click.option("--text", help="Only tasks with this text in title, command or description.")
@click.option("--limit", type=WholeNumber(1, INTEGER_MAX), help="Maximum number of tasks; default: all.")
@click.option("--after", metavar="SEED_ID", help="Only tasks after this one: the next page.")
@click.pass_context
def list_(context: click.Context, /, limit: int | None, after: str | None, **filters: str | int | bool | None) -> None:
    """List tasks, newest first: a table on a terminal, else one line for each."""
    state = state_of(context)
    chosen = _chosen(filters)
    seeds: list[JsonValue] = []
    page: dict[str, JsonValue] = {}
    streamed = not (state.json or as_table(state))
    for page in _pages(state, chosen, limit, after):
        rows = as_list(page, "seeds")
        if streamed:
            write_rows(state, _COLUMNS, [_row(state, each, "") for each in rows], "")
        seeds += rows
    following, unreadable = page.get("next"), page.get("unreadable")
    if unreadable:
        note(f"{unreadable} archived tasks are damaged and left out; see crabnet audit verify")
    if state.json:
        left_out: dict[str, JsonValue] = {"unreadable": unreadable} if unreadable else {}
        write_object({"seeds": seeds, "next": following, **left_out})
        return
    if not streamed:
        me = str(page.get("node_id"))
        shown = [_row(state, each, me) for each in seeds]
        write_rows(state, _WIDE if is_wide(state) else _COLUMNS, shown, "no tasks")
    if following is not None:
        note(f"more: {state.again(str(following))}")


def _chosen(filters: Mapping[str, str | int | bool | None]) -> dict[str, JsonValue]:
    """The parameters of ``seed.list`` that the options stand for. Raises UsageError."""
    given = dict(filters)
    status, biddable, text = given.pop("status"), given.pop("biddable"), given["text"]
    if status is not None and biddable and status != "Open":
        raise UsageError(f"tasks that are {status} take no bids; leave out --biddable", Reason.INVALID_ARGUMENT)
    if isinstance(text, str) and not 0 < len(text) <= FILTER_TEXT_CHARS_MAX:
        raise UsageError(f"--text must have 1 to {FILTER_TEXT_CHARS_MAX} characters", Reason.INVALID_ARGUMENT)
    given["needs_me"] = given["needs_me"] or None
    chosen: dict[str, JsonValue] = {name: value for name, value in given.items() if value is not None}
    if biddable or status in _BIDDABLE:
        chosen["biddable"] = biddable or _BIDDABLE[str(status)]
    elif status is not None or not chosen:
        chosen["status"] = status
    return chosen


def _pages(
    state: State, chosen: Mapping[str, JsonValue], limit: int | None, after: str | None
) -> Iterator[dict[str, JsonValue]]:
    """The pages of the list, until ``limit`` tasks have come. A page is asked for again if its answer is too long."""
    following: JsonValue = after
    most, got = PAGE_SEEDS, 0
    while True:
        wanted = most if limit is None else min(most, limit - got)
        try:
            page = as_object(state.perform("seed.list", {**chosen, "limit": wanted, "after": following}))
        except RefusedError as error:
            if error.reason is not Reason.LIMIT_EXCEEDED or wanted == 1:
                raise
            most = wanted // 2
            continue
        yield page
        got += len(as_list(page, "seeds"))
        before, following = following, page.get("next")
        if following is None or following == before or (limit is not None and got >= limit):
            return


def _row(state: State, seed_view: JsonValue, me: str) -> Row:
    """One task. ``me`` is the id of this node."""
    seed_id = as_text(seed_view, "id")
    if not as_table(state):
        return Row(seed_id, "" if state.ids_only else _line(seed_view), ())
    members = as_object(seed_view)
    wide = is_wide(state)
    creator, worker = (str(members.get(name) or "") for name in ("created_by", "claimed_by"))
    price = members.get("price") if members.get("price") is not None else members.get("reward") or ""
    cells = [
        Cell(seed_id if wide else short_id(seed_id)),
        status_cell(members),
        Cell(str(members.get("title") or "")),
        Cell(str(price)),
        Cell(str(members.get("bid_count") or "")),
        Cell(_age(members.get("created_at"), time.time())),
        Cell("you" if creator == me else creator if wide else short_id(creator)),
    ]
    if wide:
        cells += [Cell("you" if worker == me else worker), Cell(how_ended(members)), Cell(str(members.get("command")))]
    return Row(seed_id, "", cells)


def status_cell(members: Mapping[str, JsonValue]) -> Cell:
    """What has become of a task, in the words that its reader needs: whether bids are taken, and whose turn it is."""
    status = str(members.get("status"))
    if members.get("overdue"):
        return Cell("overdue", Style.BAD)
    if members.get("needs_me") and status in _NEXT:
        return Cell(_NEXT[status], Style.NEEDS_YOU)
    if status == "Open" and members.get("biddable") is False:
        return Cell("Closed")
    if status == "Done" and members.get("failed") == _WORKER_FAILED:
        return Cell("failed", Style.BAD)
    return Cell(status, _STYLES.get(status, Style.OVER))


def _age(created_at: JsonValue, now_s: float) -> str:
    age_s = max(0, int(now_s) - created_at) if isinstance(created_at, int) else 0
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if age_s >= length_s:
            return f"{min(age_s // length_s, 99_999)}{unit}"
    return f"{age_s}s"


def _line(seed_view: JsonValue) -> str:
    """The line that programs read."""
    members = as_object(seed_view)
    status = as_text(seed_view, "status").upper()
    further = [how_ended(members)]
    if members.get("biddable"):
        further.append(f"bids_until={_utc(members.get('bid_deadline_ts'))}")
    elif status == "OPEN" and members.get("biddable") is False:
        status = "CLOSED"
    words = [
        f"{as_text(seed_view, 'id')} [{status}] cmd={cut(as_text(seed_view, 'command'), _COMMAND_CHARS_MAX)}",
        f"timeout={as_text(seed_view, 'timeout_ms')}ms reward={as_text(seed_view, 'reward')}",
        *further,
    ]
    return " ".join(word for word in words if word)


def how_ended(seed_view: Mapping[str, JsonValue]) -> str:
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
