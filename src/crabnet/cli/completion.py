"""``crabnet completion``: scripts that complete commands and options in a shell."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from crabnet.cli.context import State, object_text, state_of
from crabnet.cli.options import Command
from crabnet.cli.output import write

SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_CRABNET_COMPLETE"


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    For example, in ~/.bashrc: eval "$(crabnet completion bash)"
    """
    text = script(shell)
    write(object_text({"shell": shell, "script": text}) if state_of(context).json else text)


def script(shell: str) -> str:
    """The completion script for a shell of ``SHELLS``. It asks ``crabnet`` for the words. Raises UsageError."""
    completer_class = get_completion_class(shell)
    if completer_class is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # Use source() of the base class: the one for bash would start a shell only to find out its version.
    return ShellComplete.source(completer_class(click.Command("crabnet"), {}, "crabnet", _VARIABLE)) + "\n"


def complete(root: click.Command) -> None:
    """Answer the request of the completion script, which is in the environment. An unknown request gets no answer."""
    shell, _, instruction = os.environ[_VARIABLE].partition("_")
    completer_class = get_completion_class(shell)
    if completer_class is not None and instruction == "complete":
        write(completer_class(root, {"obj": State([])}, "crabnet", _VARIABLE).complete() + "\n")
