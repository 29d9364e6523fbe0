"""``crabnet why``: why a task is where it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import click

from crabnet.cli.advice import local_times
from crabnet.cli.context import object_text, state_of
from crabnet.cli.options import Command
from crabnet.cli.output import as_list, as_object, as_text, cut, write
from crabnet.cli.tables import columns_of_terminal, is_terminal
from crabnet.cli.values import IdPrefix
from crabnet.control.client import JsonValue

_TITLE_CHARS: Final = 80
_INDENT: Final = 32
_INDENT_NARROW: Final = 4
_COLUMNS_SIDE_BY_SIDE: Final = 72
"""On a narrower terminal the texts stand below the stages, and not beside them."""
_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WORDS: Final = {"not_reached": "not reached"}


@click.command("why", cls=Command)
@click.argument("seed_id", type=IdPrefix("seed"))
@click.pass_context
def why(context: click.Context, seed_id: str) -> None:
    """Explain why a task is where it is.

    For each stage it says what has happened or what is waited for, since when and until when, and what would change
    it. Workers may say why they do not bid; nobody can check what they say.
    """
    state = state_of(context)
    answer = state.perform("seed.why", {"seed_id": seed_id})
    columns = columns_of_terminal() if is_terminal(sys.stdout) else None
    write(object_text(answer) if state.json else "\n".join([*_lines(answer, int(time.time()), columns), ""]))


def _lines(answer: JsonValue, now_s: int, columns: int | None = None) -> Iterator[str]:
    """The page. ``columns``: the width of the terminal; it breaks long lines itself, so that commands can be copied."""
    title = as_text(answer, "title")
    narrow = columns is not None and columns < _COLUMNS_SIDE_BY_SIDE
    indent = " " * (_INDENT_NARROW if narrow else _INDENT)
    yield local_times(as_text(answer, "headline")) + (f" ({cut(title, _TITLE_CHARS)})" if title else "")
    for stage in as_list(answer, "stages"):
        state, text = as_text(stage, "state"), as_text(stage, "text")
        head = f"  {as_text(stage, 'stage'):<16} {_WORDS.get(state, state):<12} "
        yield (head if narrow else head + text).rstrip()
        for line in (text if narrow else "", _times(stage, now_s), _waits_for(stage), _change(stage)):
            if line:
                yield indent + line


def _times(stage: JsonValue, now_s: int) -> str:
    members = as_object(stage)
    since_s, until_s = members.get("since_ts"), members.get("until_ts")
    pending = members.get("state") == "waiting"
    times = []
    if isinstance(since_s, int):
        times.append(f"{'since' if pending else 'at'} {moment(since_s, now_s)}")
    if isinstance(until_s, int):
        times.append(f"until {moment(until_s, now_s)}")
    return ", ".join(times)


def _waits_for(stage: JsonValue) -> str:
    members = as_object(stage)
    waits = bool(members.get("waits_for")) and not members.get("mine")
    return f"waits for {as_text(stage, 'waits_for')}" if waits else ""


def _change(stage: JsonValue) -> str:
    change = as_text(stage, "change")
    return f"what would change it: {change}" if change and as_object(stage).get("state") != "done" else ""


def moment(at_s: int, now_s: int) -> str:
    """A time by the local clock, with its date if that is not today, and how far away it is."""
    try:
        at, today = datetime.fromtimestamp(at_s), datetime.fromtimestamp(now_s).date()
    except (OverflowError, OSError, ValueError):
        return f"{at_s} s after 1970"
    shown = at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M:%S")
    away = span(abs(at_s - now_s))
    return f"{shown} ({f'in {away}' if at_s > now_s else f'{away} ago'})"


def span(seconds: int) -> str:
    """A span of time in its two largest units: ``2 h 5 min``."""
    parts = []
    for size, unit in _SPANS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
        if len(parts) == 2 or (parts and not count):
            break
    return " ".join(parts[:2]) or "0 s"
