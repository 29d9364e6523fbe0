"""``crabnet work``: sell this machine's time."""

from __future__ import annotations

from typing import Final

import click

from crabnet import limits
from crabnet.cli.context import State, state_of
from crabnet.cli.join import find_port, join_option
from crabnet.cli.options import Command, setting_option
from crabnet.cli.output import as_object, json_line, note, write
from crabnet.cli.values import Duration, duration_option
from crabnet.cli.work_view import write_offers, write_status
from crabnet.control.client import JsonValue, NodeNotRunningError, call
from crabnet.errors import DataDirBusyError
from crabnet.settings import KNOBS
from crabnet.settings.work_table import KEYS
from crabnet.signals import HELD

_NOT_FLAGS: Final = frozenset({"auto_bid", "auto_run"})
_TIMEOUT_MS: Final = "max_timeout_ms"
"""On the command line it is a duration, as elsewhere."""


class _WorkCommand(Command):
    """A command with a short flag for each setting of a worker."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        knobs = {knob.name: knob for knob in KNOBS}
        short = [
            setting_option(knobs[name], f"--{key.replace('_', '-')}", hidden=key == _TIMEOUT_MS)
            for key, name in KEYS.items()
            if key not in _NOT_FLAGS
        ]
        self.params = [join_option(), *short, _max_timeout(), *self.params]


def _max_timeout() -> click.Option:
    def keep(context: click.Context, _: click.Parameter, value: int | None) -> None:
        if value is not None:
            state_of(context).flags[KEYS[_TIMEOUT_MS]] = value

    return click.Option(
        ["--max-timeout", "max_timeout_words"], type=Duration(0, limits.TIMEOUT_MS_MAX), expose_value=False,
        callback=keep, help="Longest timeout of tasks for which the node bids. 0 means no limit. Default: 0.",
    )  # fmt: skip


@click.command("work", cls=_WorkCommand, holds_signals=True)
@click.argument("action", type=click.Choice(["status"]), required=False)
@click.option("--dry-run", is_flag=True, help="Only list the open tasks, with the price or the reason against each.")
@duration_option(
    "--wait",
    help_text="With --dry-run: how long to listen to the network at most.",
    ms_min=0,
    ms_max=limits.LOOK_AROUND_MS_MAX,
    default=limits.LOOK_AROUND_MS_DEFAULT,
)
@click.pass_context
def work(context: click.Context, action: str | None, dry_run: bool, wait_ms: int) -> None:
    """Offer this machine's time: bid for open tasks, and run those that are won, until stopped (Ctrl-C).

    Takes part in the network as `crabnet listen` does. It bids only for tasks that it would run: see --allow and the
    other settings of the runner. The table [work] of crabnet.toml can hold the same settings. All settings of
    `crabnet listen` apply, too.

    With "status", shows what the running node does as a worker, what it has earned since its start, and what it is
    owed.
    """
    state = state_of(context)
    if action is not None:
        HELD.release()
        answer = state.perform("work.status", {})
        write(json_line(answer)) if state.json else write_status(answer)
        return
    if dry_run:
        _dry_run(state, wait_ms)
        return
    _work(context, state)


def _work(context: click.Context, state: State) -> None:
    from crabnet.cli.first_process import leave_first_process
    from crabnet.cli.listening import listen_until_ended

    code = leave_first_process()
    if code is not None:
        context.exit(code)
    state.set_flag("auto_bid", True)
    state.set_flag("auto_run", True)
    _demand_no_node(state)
    find_port(state)
    listen_until_ended(state)


def _dry_run(state: State, wait_ms: int) -> None:
    def show(page: JsonValue) -> None:
        write(json_line(page)) if state.json else write_offers(page)

    if _node_runs(state):
        HELD.release()
        after: JsonValue = None
        while True:
            page = state.perform("work.offers", {} if after is None else {"after": after})
            show(page)
            after = as_object(page).get("next")
            if after is None:
                return
    from crabnet.node.operations.dry_run import offers_around

    find_port(state)
    HELD.release()
    offers_around(state.settings, wait_ms, note, show)


def _node_runs(state: State) -> bool:
    settings = state.settings
    try:
        call(settings.data_dir, "id", {}, settings.control_timeout_ms)
    except NodeNotRunningError:
        return False
    return True


def _demand_no_node(state: State) -> None:
    if not _node_runs(state):
        return
    raise DataDirBusyError(
        f"a node runs on {state.settings.data_dir} already; let it bid and run by itself with auto_bid = true and"
        " auto_run = true in its crabnet.toml, or end it with `crabnet stop`, or use another --data-dir"
    )
