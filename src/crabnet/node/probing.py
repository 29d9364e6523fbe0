"""Measures how late the node's loop wakes its tasks."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from crabnet import limits
from crabnet.monitor.meters import Meters
from crabnet.node.part import Job, Part


class LoopProbe(Part):
    """A task that sleeps and looks how late it was woken. While something blocks the loop, no task is woken."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters

    def jobs(self) -> Sequence[Job]:
        """The job that measures until it is cancelled."""
        return [Job(self._run, "loop_probe")]

    async def _run(self) -> None:
        while True:
            due_s = trio.current_time() + limits.LOOP_PROBE_MS / 1000
            await trio.sleep_until(due_s)
            now_s = trio.current_time()
            self._meters.loop_delay.observe(now_s - due_s)
            self._meters.loop_delay_max.observe(now_s - due_s, int(now_s * 1000))
