"""``crabnet topology``, ``crabnet sync`` and ``crabnet feeds``: the network as this node sees it."""

from __future__ import annotations

from typing import Final

import click

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.listing import Row, is_wide, write_rows
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import as_list, as_object, as_text, note, write
from crabnet.cli.tables import Cell, Column, Style, short_id
from crabnet.cli.topology_view import show_topology
from crabnet.control.client import JsonValue


@click.command("topology", cls=Command)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot"]),
    help="The form of the output. Default: text, or json with --json. dot is for Graphviz.",
)
@click.pass_context
def topology(context: click.Context, form: str | None) -> None:
    """Show the network as this node sees it: nodes, the ways to them, round trips, and how far they are behind.

    Without a running node it is what was remembered and configured. `crabnet --dump-topology` does the same.
    """
    show_topology(state_of(context), form)


@click.command("sync", cls=Command)
@click.pass_context
def sync(context: click.Context) -> None:
    """Show how far this node and each neighbour are behind each other. The node must be running."""
    state = state_of(context)
    answer = state.perform("sync", {})
    if state.json:
        write_object(answer)
        return
    said = as_object(answer)
    write(
        f"missing here: {as_text(answer, 'envelopes_missing')} envelopes of {as_text(answer, 'feeds_missing')} feeds,"
        f" the oldest for {_seconds(said['oldest_want_ms'])}; {as_text(answer, 'envelopes_in_flight')} are requested,"
        f" {as_text(answer, 'parked')} wait for others\n"
    )
    for each in as_list(answer, "neighbours"):
        row = as_object(each)
        ahead = "unknown" if row["envelopes_ahead"] is None else f"{as_text(each, 'envelopes_ahead')} envelopes"
        silent = "not heard" if row["silent_ms"] is None else f"heard {_seconds(row['silent_ms'])} ago"
        node_id = as_text(each, "node_id") if row["node_id"] else "-"
        write(
            f"{as_text(each, 'address')}  {node_id}  {silent}  this node lacks {as_text(each, 'envelopes_behind')}"
            f" envelopes  it lacks {ahead}\n"
        )


def _seconds(ms: JsonValue) -> str:
    return f"{ms // 1000 if isinstance(ms, int) else 0} s"


_FEEDS: Final = (
    Column("AUTHOR", 0),
    Column("ENVELOPES", 1, right=True),
    Column("MISSING", 2, right=True),
    Column("STATE", 3, least=10),
)


@click.command("feeds", cls=Command, prints_ids=True)
@click.option("--forked/--whole", "forked", default=None, help="Only feeds that a fork has ended, or only others.")
@click.option("--behind", is_flag=True, help="Only feeds of which this node lacks something.")
@click.option("--limit", type=WholeNumber(1, 1000), default=100, show_default=True, help="Maximum number of feeds.")
@click.option("--after", metavar="AUTHOR", help="Continue after this author.")
@click.pass_context
def feeds(context: click.Context, forked: bool | None, behind: bool, limit: int, after: str | None) -> None:
    """List the feeds: how far each is held, and where forks have ended it. The node need not run."""
    state = state_of(context)
    answer = state.perform("feed.list", {"forked": forked, "behind": behind or None, "limit": limit, "after": after})
    if state.json:
        write_object(answer)
        return
    write_rows(state, _FEEDS, [_feed(state, each) for each in as_list(answer, "feeds")], "no feeds")
    following = as_object(answer)["next"]
    if isinstance(following, str):
        note(f"more: {state.again(following)}")


def _feed(state: State, each: JsonValue) -> Row:
    row = as_object(each)
    author = as_text(each, "author")
    own = ["own"] if row["own"] else []
    ended = [f"ENDED before {as_text(each, 'end')}: two envelopes are signed for it"] if row["end"] else []
    missing = [f"missing up to {as_text(each, 'missing_to')}"] if row["missing_to"] else []
    cells = [
        Cell(author if is_wide(state) else short_id(author)),
        Cell(as_text(each, "head_seq")),
        Cell(as_text(each, "missing_to") if missing else ""),
        Cell(" ".join([*own, *ended]), Style.BAD if ended else Style.NONE),
    ]
    return Row(author, "  ".join([author, f"1 to {as_text(each, 'head_seq')}", *own, *ended, *missing]), cells)
