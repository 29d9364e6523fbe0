"""``crabnet events``: shows the node's events from its files. Needs no running node."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec

from crabnet.cli.context import object_text, state_of
from crabnet.cli.options import Command, WholeNumber
from crabnet.cli.output import pause, write
from crabnet.cli.values import MOMENT, MOMENT_HELP, IdPrefix, since_s
from crabnet.control.client import JsonValue
from crabnet.control.route import demand_data_dir
from crabnet.errors import DataDirDamagedError, Reason, UsageError
from crabnet.limits import INTEGER_MAX
from crabnet.monitor.events import Event, describe
from crabnet.monitor.query import EventQuery, Lost
from crabnet.monitor.reader import EventReader, follow, pages
from crabnet.monitor.registry import Component, EventKind, Severity

_FOLLOW_PAUSE_S: Final = 0.2
_LIMIT_DEFAULT: Final = 1_000


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
@click.option(
    "--source",
    "sources",
    multiple=True,
    type=click.Choice([item.value for item in Component]),
    help="Only events from this part of the node; repeatable.",
)
@click.option("--reason", "reasons", multiple=True, help="Only events with this reason; repeatable.")
@click.option("--seed", "seed_id", type=IdPrefix("seed"), help="Only events about this task.")
@click.option("--author", type=IdPrefix("node"), help="Only events about this node as author, worker or peer.")
@click.option("--since", metavar=MOMENT, help=f"Only events since {MOMENT_HELP}")
@click.option("--until", metavar=MOMENT, help="Only events before this time, given like --since.")
@click.option("--after", "after_id", type=WholeNumber(0, INTEGER_MAX), help="Only events with an id above this.")
@click.option("--before", "before_id", type=WholeNumber(0, INTEGER_MAX), help="Only events with an id below this.")
@click.option(
    "--limit",
    type=WholeNumber(0, INTEGER_MAX),
    help="Maximum number of events: the first ones with --since or --after, else the newest ones. Default: all with"
    f" --since or --after, else {_LIMIT_DEFAULT}.",
)
@click.pass_context
def events(context: click.Context, /, *, following: bool, **values: object) -> None:
    """Show the node's events, oldest first. With --json, prints one object per line."""
    state = state_of(context)
    asked = msgspec.convert(values, _Asked)
    _check("kind", asked.kinds, [item.value for item in EventKind])
    _check("reason", asked.reasons, [item.value for item in Reason])
    if following and (asked.until is not None or asked.before_id is not None):
        raise UsageError(
            "--follow continues with new events, so it has no --until or --before", Reason.INVALID_ARGUMENT
        )
    directory = state.settings.monitor_events.parent
    if not state.settings.monitor_events.exists():
        demand_data_dir(state.settings.data_dir)
    query = asked.query(int(time.time()))
    if query.seed_id is not None:
        query = msgspec.structs.replace(query, seed_id=state.full_id("seed", query.seed_id))
    if query.author is not None:
        query = msgspec.structs.replace(query, author=state.full_id("node", query.author))
    try:
        _show(directory, query, following=following, limited=asked.limit is not None, as_json=state.json)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataDirDamagedError(
            f"the events in {directory} cannot be read: {error.strerror}", Reason.DATA_DIR_DAMAGED
        ) from None


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The values of the options that say which events are wanted."""

    kinds: tuple[str, ...]
    severities: tuple[str, ...]
    sources: tuple[str, ...]
    reasons: tuple[str, ...]
    seed_id: str | None
    author: str | None
    since: str | None
    until: str | None
    after_id: int | None
    before_id: int | None
    limit: int | None

    def query(self, now_s: int) -> EventQuery:
        newest_first = self.since is None and self.after_id is None
        return EventQuery(
            after=self.after_id or 0,
            before=INTEGER_MAX if self.before_id is None else self.before_id,
            limit=self.limit if self.limit is not None else _LIMIT_DEFAULT if newest_first else INTEGER_MAX,
            newest_first=newest_first,
            kinds=frozenset(self.kinds),
            sources=frozenset(self.sources),
            severities=frozenset(self.severities),
            reasons=frozenset(self.reasons),
            seed_id=self.seed_id,
            author=self.author,
            since_ms=None if self.since is None else since_s(self.since, now_s) * 1000,
            until_ms=None if self.until is None else since_s(self.until, now_s, "--until") * 1000,
        )


def _show(directory: Path, query: EventQuery, *, following: bool, limited: bool, as_json: bool) -> None:
    with EventReader(directory) as reader:
        newest: list[Event] = []
        last_id = query.after
        for number, page in enumerate(pages(reader, query)):
            if query.newest_first:
                newest += page.events
                last_id = page.last_id if number == 0 else last_id
            else:
                _print(page.events, as_json=as_json)
                last_id = page.next
        _print(newest[::-1], as_json=as_json)
        if query.newest_first and not page.complete and not limited:
            sys.stderr.write(
                f"crabnet: these are the newest {query.limit} events; --limit N shows N, --after 0 shows all\n"
            )
        if not following:
            return
        for found in follow(reader, msgspec.structs.replace(query, after=last_id, limit=INTEGER_MAX)):
            if isinstance(found, Lost):
                sys.stderr.write(f"crabnet: the events from {found.first_id} to {found.last_id} were deleted\n")
                continue
            _print(found.events, as_json=as_json)
            if not found.events and found.complete:
                pause(_FOLLOW_PAUSE_S)


def _print(found: list[Event], *, as_json: bool) -> None:
    for event in found:
        fields: JsonValue = msgspec.to_builtins(event) if as_json else None
        write(object_text(fields) if as_json else describe(event) + "\n")


def _check(name: str, given: tuple[str, ...], known: list[str]) -> None:
    for word in given:
        if word not in known:
            import difflib

            near = difflib.get_close_matches(word, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"there is no {name} {word!r}{hint}", Reason.INVALID_ARGUMENT)
