"""Checks signatures on several processors with threads. PyNaCl releases the interpreter lock while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from crabnet.protocol.identity import SignedBytes, verify, verify_each

_THREADS_MAX: Final = 3
"""Threads beside the caller's. More would not help, because only one thread at a time holds the interpreter between two
checks and the others wait for it.
"""
_SHARED_MIN: Final = 4
"""For fewer signatures than this it is not worth waking a thread."""


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


class ParallelVerifier:
    """A ``VerifyAll`` that uses its own threads beside the caller's. Blocks until all answers are there."""

    def __init__(self) -> None:
        self._threads = min(_THREADS_MAX, processors() - 1)
        self._pool = ThreadPoolExecutor(self._threads, "crabnet-verify") if self._threads else None

    def __call__(self, signed: Sequence[SignedBytes]) -> list[bool]:
        if self._pool is None or len(signed) < _SHARED_MIN:
            return verify_each(signed)
        answers = [False] * len(signed)
        waiting = deque(range(len(signed)))

        def work() -> None:
            while True:
                try:
                    at = waiting.popleft()
                except IndexError:
                    return
                answers[at] = verify(*signed[at])

        helpers = [self._pool.submit(work) for _ in range(self._threads)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        return answers

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
