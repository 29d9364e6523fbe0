"""Distinguishing a failure from a cancellation.

A nursery inside a cancelled task raises a group of ``trio.Cancelled``, possibly together with real errors. Code that
catches errors by type therefore calls ``failure_of`` first.
"""

from __future__ import annotations

import trio


def failure_of(error: BaseException) -> BaseException | None:
    """The error without the cancellations in it; None if it holds nothing else."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error
