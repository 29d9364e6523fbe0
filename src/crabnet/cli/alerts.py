"""``crabnet alerts``: where alerts go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from crabnet.cli.context import State, object_text, state_of
from crabnet.cli.options import Command, LazyGroup
from crabnet.cli.output import as_object, as_text, write
from crabnet.errors import NetworkError, Reason, UsageError
from crabnet.plain import plain

if TYPE_CHECKING:
    from crabnet.alerts.messages import Sender

alerts = LazyGroup("alerts", "Try the targets of alerts.", {"test": "crabnet.cli.alerts:test_"})


@click.command("test", cls=Command)
@click.option("--target", type=click.IntRange(min=1), metavar="N", help="Only the target with this number.")
@click.pass_context
def test_(context: click.Context, target: int | None) -> None:
    """Send a test message to the targets of alerts, once, and print what happened.

    The targets are those of this command's own settings. A running node has those of its start. If a target does not
    take the message, the exit code is 7.
    """
    from crabnet.alerts.config import config_of
    from crabnet.alerts.targets import targets_of
    from crabnet.alerts.testing import test_targets

    state = state_of(context)
    config = config_of(state.settings)
    targets = targets_of(config)
    if not targets:
        raise UsageError("no target is configured: set alert_urls or alert_commands", Reason.INVALID_CONFIG)
    chosen = [each for each in targets if target in {None, each.number}]
    if not chosen:
        raise UsageError(f"there is no target {target}; there are {len(targets)}", Reason.INVALID_ARGUMENT)
    tested = test_targets(config, chosen, _sender(state), int(time.time()))
    failed = [each for each in tested if each.outcome.reason is not None]
    if state.json:
        write(
            object_text(
                {
                    "targets": [
                        {
                            "number": each.target.number,
                            "name": each.target.name,
                            "reason": None if each.outcome.reason is None else each.outcome.reason.value,
                            "detail": each.outcome.detail,
                        }
                        for each in tested
                    ]
                }
            )
        )
    else:
        for each in tested:
            how = "taken" if each.outcome.reason is None else f"failed: {each.outcome.reason}: {each.outcome.detail}"
            write(f"{each.target.name}: {plain(how)}\n")
    if failed:
        first = failed[0].outcome
        raise NetworkError(
            f"{len(failed)} of {len(tested)} targets did not take the message; {failed[0].target.name}: {first.detail}",
            first.reason,
        )


def _sender(state: State) -> Sender:
    """The node of this data dir, whether it runs or not; without an id if there is none yet."""
    from crabnet.alerts.messages import Sender

    node_id = None
    try:
        node_id = as_text(as_object(state.perform("id", {})), "node_id")
    except UsageError as error:
        if error.reason is not Reason.NO_DATA_DIR:
            raise
    return Sender(id=node_id, alias=state.settings.alias, namespace=state.settings.namespace)
