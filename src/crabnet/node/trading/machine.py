"""The state of this machine that matters to a worker: load, battery, time of day."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

POWER_SUPPLIES: Final = Path("/sys/class/power_supply")


class Gauges(NamedTuple):
    """The load average of the last minute for each processor, and the charge while running on a battery; in percent.

    None: not known, or not on a battery.
    """

    load_percent: int | None
    battery_percent: int | None


def read_gauges(supplies: Path = POWER_SUPPLIES) -> Gauges:
    """Read both now. It may block for a moment: some batteries answer slowly."""
    return Gauges(_load_percent(), battery_percent(supplies))


def _load_percent() -> int | None:
    try:
        return round(os.getloadavg()[0] * 100 / max(1, os.cpu_count() or 1))
    except OSError:
        return None


def battery_percent(supplies: Path) -> int | None:
    """The mean charge of this machine's batteries if one of them is being discharged, else None.

    Batteries of mice and the like do not count (docs of the Linux kernel, ``sysfs-class-power``: scope ``Device``).
    """
    charges, discharging = [], False
    try:
        found = sorted(supplies.iterdir())
    except OSError:
        return None
    for each in found:
        if _word(each / "type") != "Battery" or _word(each / "scope") == "Device":
            continue
        charge = _word(each / "capacity")
        if charge.isascii() and charge.isdigit():
            charges.append(int(charge))
            discharging = discharging or _word(each / "status") == "Discharging"
    return sum(charges) // len(charges) if discharging else None


def _word(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""


def minute_of_week(at_ms: int) -> int:
    """The minute of the week, from Monday 0:00, by the local wall clock at a time in milliseconds since the epoch."""
    local = time.localtime(at_ms / 1000)
    return (local.tm_wday * 24 + local.tm_hour) * 60 + local.tm_min
