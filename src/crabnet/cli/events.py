"""``crabnet events``: shows the node's events from its files. Needs no running node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import click
import msgspec

from crabnet.cli.context import state_of
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import json_line, pause, write
from crabnet.cli.since import HELP, METAVAR, since_s
from crabnet.control.client import JsonValue
from crabnet.control.route import demand_data_dir
from crabnet.errors import DataDirDamagedError, Reason, UsageError
from crabnet.limits import INTEGER_MAX
from crabnet.monitor.events import Event, describe
from crabnet.monitor.reader import EventFilter, follow, read_page
from crabnet.monitor.registry import EventKind, Severity

_FOLLOW_PAUSE_S: Final = 0.2


@click.command("events", cls=Command)
@click.option("--follow", "-f", "following", is_flag=True, help="Continue with new events as they happen.")
@click.option("--kind", "kinds", multiple=True, help="Only events of this kind; repeatable.")
@click.option(
    "--severity",
    "severities",
    multiple=True,
    type=click.Choice([item.value for item in Severity]),
    help="Only events of this severity; repeatable.",
)
@click.option("--reason", "reasons", multiple=True, help="Only events with this reason; repeatable.")
@click.option("--seed", "seed_id", metavar="SEED_ID", help="Only events about this task.")
@click.option("--since", metavar=METAVAR, help=f"Only events since {HELP}")
@click.option("--after", "after_id", type=WholeNumber(0, INTEGER_MAX), help="Only events with an id above this.")
@click.option(
    "--limit",
    type=WholeNumber(0, INTEGER_MAX),
    help="Maximum number of events: the first ones with --since or --after, else the newest ones.",
)
@click.pass_context
def events(
    context: click.Context,
    /,
    *,
    following: bool,
    seed_id: str | None,
    since: str | None,
    after_id: int | None,
    limit: int | None,
    **words: tuple[str, ...],
) -> None:
    """Show the node's events, oldest first. With --json, prints one object per line."""
    state = state_of(context)
    kinds, severities, reasons = words["kinds"], words["severities"], words["reasons"]
    _check("kind", kinds, [item.value for item in EventKind])
    _check("reason", reasons, [item.value for item in Reason])
    directory = state.settings.monitor_events.parent
    if not state.settings.monitor_events.exists():
        demand_data_dir(state.settings.data_dir)
    from_s = 0 if since is None else since_s(since, int(time.time()))
    wanted = EventFilter(kinds or None, severities or None, reasons or None, seed_id, from_s)
    try:
        newest = since is None and after_id is None
        page = read_page(directory, wanted, after_id or 0, limit=limit, newest=newest)
        for event in page.events:
            _print(event, as_json=state.json)
        if following:
            for event in _new_events(follow(directory, page.stats.last_id, wanted)):
                _print(event, as_json=state.json)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataDirDamagedError(
            f"the events in {directory} cannot be read: {error.strerror}", Reason.DATA_DIR_DAMAGED
        ) from None


def _new_events(stream: Iterator[Event | None]) -> Iterator[Event]:
    for event in stream:
        if event is None:
            pause(_FOLLOW_PAUSE_S)
        else:
            yield event


def _print(event: Event, *, as_json: bool) -> None:
    fields: JsonValue = msgspec.to_builtins(event) if as_json else None
    write(json_line(fields) if as_json else describe(event) + "\n")


def _check(name: str, given: tuple[str, ...], known: list[str]) -> None:
    for word in given:
        if word not in known:
            import difflib

            near = difflib.get_close_matches(word, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"there is no {name} {word!r}{hint}", Reason.INVALID_ARGUMENT)
