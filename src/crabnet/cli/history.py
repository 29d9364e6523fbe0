"""``crabnet history``: what this node did, and what was decided about its work, from its events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from crabnet.cli.context import State, state_of, write_object
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import as_list, as_object, note, write
from crabnet.cli.tables import cut_to, short_id
from crabnet.cli.values import MOMENT_HELP, IdPrefix, Moment
from crabnet.control.client import JsonValue
from crabnet.control.route import demand_data_dir
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason
from crabnet.limits import EVENTS_LOOKED_AT_MAX, INTEGER_MAX, SEED_LIST_MAX
from crabnet.monitor.events import Event
from crabnet.monitor.query import EventQuery
from crabnet.monitor.reader import EventReader, pages
from crabnet.monitor.registry import EventKind
from crabnet.plain import plain

_LIMIT_DEFAULT: Final = 50
_TITLE_CHARS_MAX: Final = 60
_ACTS: Final = {
    "SeedCreated": "published",
    "BidSubmitted": "bid on",
    "ClaimCreated": "claimed a bid on",
    "TaskResult": "returned the result of",
    "TaskSettle": "settled",
    "SettleAcknowledged": "acknowledged the settlement of",
}
"""What the node did, by the kind of the envelope that it signed. Settlements go by their outcome."""
_SETTLED: Final = {
    "Accepted": "accepted the result of",
    "Rejected": "rejected the result of",
    "Forfeited": "ended the claim on",
    "Expired": "withdrew",
}
_SETTLEMENT: Final = "TaskSettle"
_KINDS: Final = frozenset(
    {
        EventKind.ENVELOPE_CREATED.value,
        EventKind.SEED_CHANGED.value,
        EventKind.RUN_STARTED.value,
        EventKind.RUN_REFUSED.value,
        EventKind.RUN_INTERRUPTED.value,
    }
)
_RUNS: Final = {
    EventKind.RUN_STARTED.value: "began to run",
    EventKind.RUN_REFUSED.value: "refused to run",
    EventKind.RUN_INTERRUPTED.value: "was interrupted while it ran",
}


class Act(NamedTuple):
    """Who did what, when, with which task."""

    event_id: int
    at_ms: int
    who: str | None
    """The node id of another one; None is this node."""
    what: str
    seed_id: str


@click.command("history", cls=Command)
@click.option("--seed", "seed_id", type=IdPrefix("seed"), help="Only what concerns this task.")
@click.option("--since", type=Moment(), help=f"Only since {MOMENT_HELP}")
@click.option(
    "--limit", type=WholeNumber(1, INTEGER_MAX), default=_LIMIT_DEFAULT, show_default=True, help="Maximum number."
)
@click.pass_context
def history(context: click.Context, seed_id: str | None, since: int | None, limit: int) -> None:
    """Show what this node did, newest first: tasks, bids, claims, runs, results, settlements, and those of its work.

    It goes back as far as the events of the node. The node need not run.
    """
    state = state_of(context)
    log = state.settings.monitor_events
    if not log.exists():
        demand_data_dir(state.settings.data_dir)
    query = EventQuery(
        kinds=_KINDS,
        seed_id=None if seed_id is None else state.full_id("seed", seed_id),
        since_ms=None if since is None else since * 1000,
        limit=EVENTS_LOOKED_AT_MAX,
    )
    acts = _newest(log.parent, query, limit)
    tasks = _tasks(state) if acts else {}
    if state.json:
        write_object({"acts": [_object(act, tasks) for act in acts]})
        return
    write("".join(f"{_line(act, tasks)}\n" for act in acts))
    if not acts:
        note("nothing yet: this node has published no task, and has bid for none")


def _newest(directory: Path, query: EventQuery, limit: int) -> list[Act]:
    found: list[Act] = []
    try:
        with EventReader(directory) as reader:
            for act in _acts(event for page in pages(reader, query) for event in page.events):
                found.append(act)
                if len(found) >= limit:
                    break
    except OSError as error:
        raise DataDirDamagedError(
            f"the events in {directory} cannot be read: {error.strerror}", Reason.DATA_DIR_DAMAGED
        ) from None
    return found


def _acts(events: Iterator[Event]) -> Iterator[Act]:
    """The acts in events, newest first. A change of a task comes after the envelope that made it."""
    outcomes: dict[str, str] = {}
    for event in events:
        payload = event.payload
        seed_id, author, status = (str(payload.get(name) or "") for name in ("seed_id", "author", "status"))
        envelope_id, what, who = str(payload.get("envelope_id") or ""), "", None
        if event.kind == EventKind.SEED_CHANGED.value and author == event.node_id:
            outcomes = {envelope_id: status}
        elif event.kind == EventKind.SEED_CHANGED.value and payload.get("worker") == event.node_id:
            price = payload.get("price")
            won = "chose the bid of this node" + (f", {price}," if price is not None else "") + " on"
            what, who = {"Claimed": won, **_SETTLED, "Expired": ""}.get(status, ""), author
        elif event.kind == EventKind.ENVELOPE_CREATED.value:
            kind = str(payload.get("kind"))
            outcome = outcomes.get(envelope_id, "") if kind == _SETTLEMENT else ""
            what = _SETTLED.get(outcome) or _ACTS.get(kind, "")
        else:
            what = _RUNS.get(event.kind, "")
        if what:
            yield Act(event.id, event.ts_ms, who, what, seed_id)


def _tasks(state: State) -> dict[str, dict[str, JsonValue]]:
    """The newest tasks by id, for their titles and prices. None if they cannot be had: the events tell enough."""
    try:
        page = state.perform("seed.list", {"limit": SEED_LIST_MAX})
    except CrabnetError:
        return {}
    return {str(task.get("id")): task for task in map(as_object, as_list(page, "seeds"))}


def _object(act: Act, tasks: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, JsonValue]:
    task = tasks.get(act.seed_id, {})
    return {
        "event_id": act.event_id,
        "at_ms": act.at_ms,
        "node_id": act.who,
        "what": act.what,
        "seed_id": act.seed_id,
        "title": task.get("title"),
        "price": task.get("price"),
    }


def _line(act: Act, tasks: Mapping[str, Mapping[str, JsonValue]]) -> str:
    task = tasks.get(act.seed_id, {})
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(act.at_ms / 1000))
    who = "this node" if act.who is None else f"node {short_id(act.who)}"
    title = task.get("title")
    told = f" {plain(cut_to(str(title), _TITLE_CHARS_MAX))!r}" if title else ""
    price = f" at {task['price']}" if task.get("price") is not None and not act.what.startswith("pub") else ""
    return f"{at}  {who} {act.what} task {short_id(act.seed_id)}{told}{price}"
