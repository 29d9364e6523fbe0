"""``crabnet config``."""

from __future__ import annotations

import click

from crabnet.cli.checking import check_config
from crabnet.cli.context import state_of, write_object
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import write
from crabnet.control.client import JsonValue
from crabnet.plain import plain
from crabnet.settings import KNOBS, shown

config = LazyGroup(
    "config",
    "Show, change and check the configuration.",
    {
        "show": "crabnet.cli.config:show",
        "get": "crabnet.cli.config_edit:get",
        "set": "crabnet.cli.config_edit:set_",
        "init": "crabnet.cli.config_edit:init",
        "verify": "crabnet.cli.config:verify",
    },
)


@click.command("show", cls=Command)
@click.pass_context
def show(context: click.Context) -> None:
    """Show every setting with its effective value and its origin. Values of secrets are not shown."""
    state = state_of(context)
    resolved = state.resolved
    values = shown(resolved.settings)
    if state.json:
        rows: dict[str, JsonValue] = {}
        for knob in KNOBS:
            value = values[knob.name]
            plain_value: JsonValue = list[JsonValue](value) if isinstance(value, list) else value
            rows[knob.name] = {"value": plain_value, "origin": resolved.origins[knob.name], "unit": knob.unit or None}
        path = None if resolved.config_path is None else str(resolved.config_path)
        write_object({"config_file": path, "settings": rows})
        return
    for knob in KNOBS:
        value = knob.shown(getattr(resolved.settings, knob.name))
        unit = f" {knob.unit}" if knob.unit else ""
        write(f"{knob.name} = {plain(value)}{unit}  ({plain(resolved.origins[knob.name])})\n")


@click.command("verify", cls=Command)
@click.pass_context
def verify(context: click.Context) -> None:
    """Check whether a node with these settings would start here: addresses, rights, data dir, peers, clock, commands.

    Each line says ok, warn or fail, and what to do. Changes nothing. Asks configured peers from a temporary port
    whether they are there. `crabnet --verify-config` does the same. If checks fail, the exit code is that of the first
    failed check.
    """
    check_config(state_of(context))
