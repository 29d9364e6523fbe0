"""The values that a worker's policy takes."""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

from crabnet.market.schedule import Span

MICRO: Final = 1_000_000
"""Rates are in millionths, so that every node computes with whole numbers."""


class WorkPolicy(Struct, frozen=True, kw_only=True):
    """For which tasks a worker bids, and how much it asks. 0 and empty mean no condition."""

    price: int = 0
    """What each task costs."""
    price_per_s_micro: int = 0
    """What each second of a task's timeout costs, in millionths."""
    price_per_mib_micro: int = 0
    """What each MiB of memory that its run may take costs, in millionths."""
    price_min: int = 0
    spans: tuple[Span, ...] = ()
    """When it works."""
    schedule: str = ""
    """The same as its operator wrote it."""
    only: frozenset[str] = frozenset()
    """It works for these publishers only."""
    never: frozenset[str] = frozenset()
    settled_min_micro: int = 0
    """The least share of its due results that a publisher has settled in time, in millionths."""
    unsettled_max: int = 0
    """Most bids, tasks and unsettled results at one publisher, besides as many as it has settled in time."""
    load_max_percent: int = 0
    """The load of the machine for each processor above which it does not bid."""
    battery_min_percent: int = 0
    """The charge below which it does not bid while the machine runs on its battery."""
    timeout_max_ms: int = 0
    runs_max: int = 4
    commitments_max: int = 68
    """Most open bids and claimed tasks at the same time."""


class Machine(Struct, frozen=True, kw_only=True):
    """The state of a worker's machine and node."""

    minute: int = 0
    """Minute of the week by the local wall clock."""
    load_percent: int | None = None
    """The load average for each processor. None: not known."""
    battery_percent: int | None = None
    """The charge while the machine runs on its battery. None: it does not, or has none."""
    paused: bool = False
    ending: bool = False


class Load(Struct, frozen=True, kw_only=True):
    """What a worker has to do already."""

    machine: Machine = Machine()
    end_minute: int = 0
    """The first minute of the week at whose beginning the task is certain to be over, if it begins now."""
    commitments: int = 0
    """Open bids and claimed tasks."""
    backlog_ms: int = 0
    """How long their timeouts take at most, one after the other in as many places as there are runs at once."""
    unsettled: int = 0
    """Open bids, claimed tasks and unsettled results at the publisher of the task."""


class Demand(Struct, frozen=True, kw_only=True):
    """What a run of a task may take here: the lower of what its seed asks and what this worker allows."""

    memory_bytes: int


class Dealings(Protocol):
    """What a publisher has done with the results of its tasks."""

    @property
    def due_results(self) -> int:
        """Results of its tasks that it has settled, or should have settled by now."""
        ...

    @property
    def settled_in_time(self) -> int:
        """Those of them that it settled before they were due."""
        ...


class NoDealings(Struct, frozen=True):
    """The dealings of a publisher of whom nothing is known."""

    due_results: int = 0
    settled_in_time: int = 0
