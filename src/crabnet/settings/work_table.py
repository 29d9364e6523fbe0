"""The table ``[work]`` of a configuration file: short names for what concerns work for others.

``crabnet work`` has the same names as flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TABLE: Final = "work"
KEYS: Final[Mapping[str, str]] = {
    "auto_bid": "auto_bid",
    "auto_run": "auto_run",
    "allow": "runner_allowed_commands",
    "max_running": "runner_runs_max",
    "price": "work_price",
    "price_per_s": "work_price_per_s",
    "price_per_mib": "work_price_per_mib",
    "min_price": "work_min_price",
    "schedule": "work_schedule",
    "only": "work_only",
    "never": "work_never",
    "min_settled": "work_min_settled",
    "max_unsettled": "work_unsettled_max",
    "max_load": "work_load_max",
    "min_battery": "work_battery_min",
    "max_timeout_ms": "work_timeout_max_ms",
}
"""The setting that each key of the table means."""
