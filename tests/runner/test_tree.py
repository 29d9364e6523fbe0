"""What the supervisor sees of the processes beneath it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from crabnet.runner.supervisor.tree import children_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc: NOT tested")


def test_threads_that_end_hide_no_children_of_others() -> None:
    """A command could otherwise keep its processes from being seen by starting and ending threads."""
    for _ in range(20):
        over = [threading.Event() for _ in range(40)]
        earlier = [threading.Thread(target=event.wait) for event in over]
        for thread in earlier:
            thread.start()
        started: list[subprocess.Popen[bytes]] = []
        made, ended = threading.Event(), threading.Event()

        def parent(
            started: list[subprocess.Popen[bytes]] = started,
            made: threading.Event = made,
            ended: threading.Event = ended,
        ) -> None:
            with subprocess.Popen(["sleep", "600"]) as child:
                started.append(child)
                made.set()
                ended.wait()
                child.kill()

        last = threading.Thread(target=parent)
        last.start()
        made.wait()
        seen = []
        for event in over:
            event.set()
            seen.append(started[0].pid in children_of(os.getpid()))
        ended.set()
        for thread in (*earlier, last):
            thread.join()
        assert all(seen)
