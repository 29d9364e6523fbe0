"""Whether alerts can reach their targets, as far as that can be known without sending one."""

from __future__ import annotations

from collections.abc import Iterator

from crabnet import limits
from crabnet.alerts.config import config_of
from crabnet.alerts.targets import Target, Way, obstacle, targets_of
from crabnet.errors import Reason, UsageError
from crabnet.node.alerts import demand_kinds
from crabnet.operator.check import Check, Situation, Verdict

_TEST = "try it with `crabnet alerts test`"


def alerts(at: Situation) -> Iterator[Check]:
    """The settings of alerts. A node starts in spite of all that is wrong with targets, and tells it."""
    demand_kinds(at.settings)
    config = config_of(at.settings)
    try:
        targets = targets_of(config)
    except UsageError as error:
        yield Check("alert_urls_file", Verdict.WARNING, f"{error.message}; without it no alerts are sent", error)
        return
    if config.alert_secret is not None and len(config.alert_secret) < limits.SECRET_CHARS_MIN:
        detail = f"it has {len(config.alert_secret)} characters, so it may be guessed"
        remedy = f"use {limits.SECRET_CHARS_MIN} random characters"
        yield Check("alert_secret", Verdict.WARNING, detail, remedy=remedy)
    for target in targets:
        yield _target(target)


def _target(target: Target) -> Check:
    name = "alert_commands" if target.way is Way.COMMAND else "alert_urls"
    wrong = obstacle(target)
    if wrong is None:
        if target.secret.lower().startswith("http://"):
            detail = f"{target.name}: without TLS, others on the way can read and change alerts"
            return Check(name, Verdict.WARNING, detail, remedy="use https, unless the receiver is on this machine")
        return Check(name, Verdict.OK, f"{target.name}: {_TEST}")
    remedies = {
        Reason.UNAVAILABLE: "install the extra `alerts`, or remove the target",
        Reason.SPAWN_FAILED: "install the program, or give its whole path",
    }
    remedy = remedies.get(wrong.reason, f"correct the URL, and {_TEST}")
    return Check(name, Verdict.WARNING, f"{target.name}: {wrong.message}", wrong, remedy)
