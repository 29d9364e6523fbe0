"""The tree of commands."""

from __future__ import annotations

from typing import Final

import click

from crabnet._version import __version__
from crabnet.cli.context import state_of
from crabnet.cli.options import LazyGroup
from crabnet.cli.output import json_line, structured, write

_SECTIONS: Final = {
    "Buying": {
        "run": "crabnet.cli.run:run",
        "attach": "crabnet.cli.run:attach",
        "seed": "crabnet.cli.seed:seed",
        "receipt": "crabnet.cli.receipt:receipt",
    },
    "Selling": {
        "work": "crabnet.cli.work:work",
        "runs": "crabnet.cli.steering:runs",
    },
    "Looking": {
        "why": "crabnet.cli.why:why",
        "status": "crabnet.cli.node:status",
        "account": "crabnet.cli.account:account",
        "history": "crabnet.cli.history:history",
        "top": "crabnet.cli.top:top",
        "peers": "crabnet.cli.node:peers",
        "topology": "crabnet.cli.topology:topology",
        "sync": "crabnet.cli.topology:sync",
        "feeds": "crabnet.cli.topology:feeds",
        "events": "crabnet.cli.events:events",
    },
    "Running a node": {
        "listen": "crabnet.cli.node:listen",
        "drain": "crabnet.cli.steering:drain",
        "stop": "crabnet.cli.steering:stop",
        "config": "crabnet.cli.config:config",
        "id": "crabnet.cli.node:identity",
        "token": "crabnet.cli.token:token",
        "web": "crabnet.cli.web:web",
        "alerts": "crabnet.cli.alerts:alerts",
        "completion": "crabnet.cli.completion:completion",
    },
    "Care": {
        "doctor": "crabnet.cli.doctor:doctor",
        "audit": "crabnet.cli.audit:audit",
        "state": "crabnet.cli.state:state",
        "fsck": "crabnet.cli.fsck:fsck",
        "debug": "crabnet.cli.doctor:debug",
    },
}
"""The commands by what people use them for."""
_TOP: Final = {name: place for commands in _SECTIONS.values() for name, place in commands.items()}


def command_path(arguments: list[str]) -> str:
    """The command that the arguments name, with the groups before it, as far as they exist."""
    path, group = ["crabnet"], cli
    for word in arguments:
        command = group.get_command(click.Context(group), word)
        if command is not None:
            path.append(word)
            if not isinstance(command, LazyGroup):
                break
            group = command
    return " ".join(path)


cli = LazyGroup("crabnet", "A decentralised task network: publish, bid, claim, run, settle.", _TOP, sections=_SECTIONS)


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        json_wanted = structured(state_of(context).arguments)
        write(json_line({"version": __version__}) if json_wanted else f"crabnet {__version__}\n")
        context.exit()


cli.params.append(
    click.Option(
        ["--version", "-V"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_print_version,
        help="Print the version.",
    )
)
