"""What the process that sends alerts needs to know. A node gives it to its child; a command takes it from settings."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from crabnet.settings import Settings


class AlertsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of alerts, by their names in docs/CONFIGURATION.md."""

    data_dir: str
    alias: str
    namespace: str
    control_timeout_ms: int
    alert_urls: tuple[str, ...]
    alert_urls_file: str | None
    alert_commands: tuple[str, ...]
    alert_kinds: tuple[str, ...]
    alert_secret: str | None
    alert_messages_per_minute: int
    alert_retry_s: int
    alert_timeout_ms: int

    @property
    def directory(self) -> Path:
        """The data dir."""
        return Path(self.data_dir)


class Given(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node gives to its child."""

    config: AlertsConfig
    node_id: str
    begin_after: int
    """The id of the last event before this start of the node. Targets that are new get the events behind it."""


def config_of(settings: Settings) -> AlertsConfig:
    """The part of the settings that alerts need."""
    return msgspec.convert(settings.part(AlertsConfig.__struct_fields__), AlertsConfig)
