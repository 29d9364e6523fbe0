"""The process that sends alerts: whether a node keeps it, and what it is given."""

from __future__ import annotations

from typing import Final

import msgspec

from crabnet.errors import Reason, UsageError
from crabnet.monitor.registry import EventKind
from crabnet.node.children.children import Children
from crabnet.node.children.spec import ChildSpec
from crabnet.settings import Settings

NAME: Final = "alerts"
_ENVIRONMENT: Final = ("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""Commands are looked up in PATH. The others say where certificates of authorities are."""
_GIVEN: Final = (
    "data_dir",
    "alias",
    "namespace",
    "control_timeout_ms",
    "alert_urls",
    "alert_urls_file",
    "alert_commands",
    "alert_kinds",
    "alert_secret",
    "alert_messages_per_minute",
    "alert_retry_s",
    "alert_timeout_ms",
)
"""The settings that the process gets (``crabnet.alerts.config``)."""


def demand_kinds(settings: Settings) -> None:
    """Raises UsageError (INVALID_CONFIG) if ``alert_kinds`` names something that is no kind of event."""
    known = {kind.value for kind in EventKind}
    unknown = sorted(set(settings.alert_kinds) - known)
    if unknown:
        raise UsageError(
            f"alert_kinds has {unknown[0]}, which is no kind of event; docs/EVENTS.md lists them", Reason.INVALID_CONFIG
        )


def keep_alerts(children: Children, settings: Settings, node_id: str, begin_after: int) -> None:
    """Have the process kept, if there are targets. ``begin_after`` is the id of the last event before this start."""
    if not (settings.alert_urls or settings.alert_urls_file or settings.alert_commands):
        children.off(NAME, "no target is configured")
        return
    children.keep(
        ChildSpec(
            name=NAME,
            entry="crabnet.alerts.main:serve",
            without="alerts are not sent",
            given=msgspec.json.encode(
                {"config": settings.part(_GIVEN), "node_id": node_id, "begin_after": begin_after}
            ),
            environment=_ENVIRONMENT,
        )
    )
