"""Configuration: one table of knobs, resolved from flags, environment, TOML and defaults.

Imports only the standard library: every command needs it at once.
"""

from __future__ import annotations

from crabnet.settings.kinds import OFF, is_loopback, split_address
from crabnet.settings.knob import Knob
from crabnet.settings.knobs import KNOBS, LIMITS_GROUP, MIB, Settings, shown
from crabnet.settings.resolve import DEFAULT_ORIGIN, RESERVED_ENV, FlagValue, Resolved, resolve

__all__ = [
    "DEFAULT_ORIGIN",
    "KNOBS",
    "LIMITS_GROUP",
    "MIB",
    "OFF",
    "RESERVED_ENV",
    "FlagValue",
    "Knob",
    "Resolved",
    "Settings",
    "is_loopback",
    "resolve",
    "shown",
    "split_address",
]
