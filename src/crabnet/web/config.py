"""What the web process needs to know. A node gives it to its child; by hand it comes from the settings."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from crabnet.settings import Settings


class WebConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of the web process, by their names in docs/CONFIGURATION.md."""

    data_dir: str
    control_timeout_ms: int
    web_addr: str
    web_socket: str | None
    metrics_addr: str | None
    web_api_token: str | None
    web_api_auth_required: bool
    web_allowed_hosts: tuple[str, ...]
    web_tls_cert: str | None
    web_tls_key: str | None
    web_connections_max: int
    web_address_connections_max: int
    web_requests_per_sec: int

    @property
    def directory(self) -> Path:
        """The data dir."""
        return Path(self.data_dir)


def config_of(settings: Settings) -> WebConfig:
    """The part of the settings that the web process needs."""
    return msgspec.convert(settings.part(WebConfig.__struct_fields__), WebConfig)
