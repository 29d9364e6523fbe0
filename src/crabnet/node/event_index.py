"""The job that keeps the index of the events up to date while the node runs."""

from __future__ import annotations

import trio

from crabnet import limits
from crabnet.errors import Reason
from crabnet.monitor.index.index import EventIndex
from crabnet.monitor.index.tables import INDEX_NAME
from crabnet.node.reporting import Notify


async def keep_index(index: EventIndex, notify: Notify) -> None:
    """Index what was written, in small steps, and check the index part by part. Only the speed of queries needs it."""
    seal_s = look_s = trio.current_time()
    while True:
        try:
            step = await trio.to_thread.run_sync(index.step)
            if step.rebuilding is not None:
                notify("index_rebuilt", {"file": INDEX_NAME, "detail": step.rebuilding})
                await trio.sleep(limits.INDEX_RETRY_MS / 1000)
            if trio.current_time() >= seal_s and not step.more:
                seal_s = trio.current_time() + limits.EVENT_INDEX_SEAL_MS / 1000
                await trio.to_thread.run_sync(index.seal)
            if trio.current_time() >= look_s:
                look_s = trio.current_time() + limits.INDEX_LOOK_MS / 1000
                await trio.to_thread.run_sync(index.look_at_some)
            await trio.sleep((limits.EVENT_INDEX_PAUSE_MS if step.more else limits.INDEX_FLUSH_MS) / 1000)
        except OSError as error:
            detail = f"the index of the events cannot be kept: {error.strerror or error}"
            notify("job_failed", {"job": "event_index", "reason": Reason.STORAGE_FAILED.value, "detail": detail})
            await trio.sleep(limits.EVENT_INDEX_SEAL_MS / 1000)
