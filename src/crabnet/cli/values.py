"""Values that people write in words: durations, moments and ids. The same for all commands."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import click

from crabnet.cli.context import state_of
from crabnet.control.client import JsonValue, call
from crabnet.errors import CrabnetError, Reason, UsageError
from crabnet.limits import INTEGER_MAX
from crabnet.plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

MOMENT: Final = "TIME|AGO"
"""The metavar of a moment."""
MOMENT_HELP: Final = (
    "a local time (14:30, 2026-11-30, 2026-11-30T14:30, or with a zone as in 2026-11-30T14:30Z), or a time span before"
    " now: 90 (seconds), 15m, 2h, 7d."
)
LAST: Final = "@last"
"""The word for the task that the operator of this node has published last."""
_COMPLETED_MAX: Final = 50
_COMPLETION_WAIT_MS: Final = 300
"""How long somebody who pressed Tab waits for the node."""
_DURATION: Final = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,3})?(?:ms|[smhd]))+|[0-9]{1,12}", re.ASCII)
_PART: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ms|[smhd]?)", re.ASCII)
_UNIT_MS: Final = {"ms": 1, "": 1000, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_CLOCK: Final = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?", re.ASCII)


def duration_ms(text: str) -> int | None:
    """Milliseconds of a duration such as 90 (seconds), 500ms, 15m, 1h30m or 1.5d; None if it is none."""
    text = text.strip()
    if not _DURATION.fullmatch(text):
        return None
    total = 0
    for whole, fraction, unit in _PART.findall(text):
        total += int(whole) * _UNIT_MS[unit]
        if fraction:
            total += int(fraction) * _UNIT_MS[unit] // 10 ** len(fraction)
    return total


def span_s(text: str) -> int | None:
    """Whole seconds of a duration; None if it is none."""
    ms = duration_ms(text)
    return None if ms is None else ms // 1000


def shown_duration(ms: int) -> str:
    """A duration in the form in which people give it: the whole number of the largest unit that fits, as in ``10m``."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNIT_MS[unit] == 0:
            return f"{ms // _UNIT_MS[unit]}{unit}"
    return f"{ms}ms"


def since_s(text: str, now_s: int, option: str = "--since") -> int:
    """Seconds since 1970 of a moment. Times without a zone are local. A time of day is the last one that was.

    Raises UsageError, which names ``option``.
    """
    from datetime import datetime

    text = text.strip()
    ago_s = span_s(text)
    if ago_s is not None:
        return max(0, now_s - ago_s)
    try:
        clock = _CLOCK.fullmatch(text)
        if clock is not None:
            return _last_time_of_day(now_s, *(int(part or 0) for part in clock.groups()))
        if not _DATE.match(text):
            raise ValueError(text)
        return max(0, int(datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option} {text!r} is neither a time such as 14:30 or 2026-11-30T14:30 nor a time span such as 90, 15m, 2h"
            " or 7d",
            Reason.INVALID_ARGUMENT,
        ) from None


def _last_time_of_day(now_s: int, hour: int, minute: int, second: int) -> int:
    """The last moment, not after ``now_s``, at which local clocks showed this time."""
    from datetime import datetime

    now = datetime.fromtimestamp(now_s)
    for days_ago in range(3):
        day = datetime.fromordinal(now.toordinal() - days_ago)
        moment = int(day.replace(hour=hour, minute=minute, second=second).timestamp())
        if moment <= now_s:
            return max(0, moment)
    return now_s


class Duration(click.ParamType[int]):
    """A duration such as 90 (seconds), 500ms, 5s, 10m, 2h, 1d or 1h30m, within bounds. Its value is milliseconds."""

    name = "duration"

    def __init__(self, ms_min: int = 0, ms_max: int = INTEGER_MAX) -> None:
        self.ms_min, self.ms_max = ms_min, ms_max

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:  # noqa: ARG002 - click's signature
        return None if isinstance(param, click.Argument) else "DURATION"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        ms = duration_ms(str(value))
        if ms is None:
            self.fail(f"{value!r} is not a duration such as 90 (seconds), 500ms, 10m, 2h or 1d.", param, ctx)
        if not self.ms_min <= ms <= self.ms_max:
            least, most = shown_duration(self.ms_min), shown_duration(self.ms_max)
            self.fail(f"{value!r} is not from {least} to {most}.", param, ctx)
        return ms


class Moment(click.ParamType[int]):
    """A moment, as ``since_s`` takes it. Its value is seconds since 1970."""

    name = "moment"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:  # noqa: ARG002 - click's signature
        return MOMENT

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        if isinstance(value, int):
            return value
        option = "--since" if param is None or not param.opts else param.opts[0]
        return since_s(str(value), int(time.time()), option)


class IdPrefix(click.ParamType[str]):
    """An id, the beginning of one, or ``@last``. ``State.full_id`` makes the whole id of it, and completion knows it.

    ``kind`` is what the id names: ``seed``, ``bid`` or ``node``.
    """

    name = "id"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:  # noqa: ARG002 - click's signature
        return None if isinstance(param, click.Argument) else "ID"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        return str(value).strip()

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        return _ids_like(ctx, self.kind, incomplete)


def _ids_like(context: click.Context, kind: str, incomplete: str) -> list[CompletionItem[str]]:
    """Ids that begin so, with what they name, from the running node. Nothing if it does not answer at once."""
    from click.shell_completion import CompletionItem

    parameters: dict[str, JsonValue] = {"kind": kind, "text": incomplete, "limit": _COMPLETED_MAX}
    if kind == "bid":
        parameters["seed_id"] = str(context.params.get("seed_id") or "")
    try:
        answer = call(state_of(context).settings.data_dir, "id.find", parameters, _COMPLETION_WAIT_MS)
    except CrabnetError:
        return []
    rows = answer.get("found") if isinstance(answer, dict) else None
    found = [each for each in (rows if isinstance(rows, list) else []) if isinstance(each, dict)]
    items = [
        CompletionItem(str(each.get("id")), help=plain(f"{each.get('status') or ''} {each.get('title') or ''}".strip()))
        for each in found
    ]
    if kind == "seed" and LAST.startswith(incomplete):
        items.append(CompletionItem(LAST, help="the task that you have published last"))
    return items


def duration_option(
    flag: str, *, help_text: str, ms_min: int = 1, ms_max: int = INTEGER_MAX, default: int | None = None
) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """A decorator that adds ``flag`` (a duration) and ``flag-ms`` (milliseconds). The command gets ``flag_ms``."""
    from crabnet.cli.options import WholeNumber

    name = flag.removeprefix("--").replace("-", "_") + "_ms"

    def keep(context: click.Context, _: click.Parameter, value: int | None) -> None:
        if value is not None:
            context.meta[name] = value

    def chosen(context: click.Context, _: click.Parameter, value: int | None) -> int | None:
        kept = context.meta.get(name)
        if kept is None:
            return default if value is None else value
        if value is not None:
            context.fail(f"Give {flag} or {flag}-ms, not both.")
        return int(kept)

    shown = "" if default is None else f" Default: {shown_duration(default)}."
    words = click.option(
        flag, name.removesuffix("_ms") + "_words", type=Duration(ms_min, ms_max), is_eager=True, expose_value=False,
        callback=keep, help=f"{help_text}{shown}",
    )  # fmt: skip
    in_ms = click.option(
        f"{flag}-ms", name, type=WholeNumber(ms_min, ms_max), callback=chosen, hidden=True,
        help=f"The same as {flag}, in milliseconds.",
    )  # fmt: skip

    def decorate(command: click.decorators.FC) -> click.decorators.FC:
        return words(in_ms(command))

    return decorate
