"""Signatures checked on all processors: PyNaCl lets go of the interpreter while it computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from crabnet.protocol.identity import SignedBytes, verify, verify_each

_THREADS_MAX: Final = 3
"""Beside the caller's: while one of them holds the interpreter between two checks, the others wait for it."""
_SHARED_MIN: Final = 4
"""Fewer signatures than this are not worth waking a thread."""


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


class ParallelVerifier:
    """A ``VerifyAll`` that works with threads of its own beside the caller's. Blocks until all answers are there."""

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
