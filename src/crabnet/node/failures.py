"""Telling a failure from a cancellation.

A nursery inside a cancelled task raises a group of ``trio.Cancelled``, possibly together with real errors. Whoever
catches errors by type therefore asks here first.
"""

from __future__ import annotations

import trio


def failure_of(error: BaseException) -> BaseException | None:
    """What is left of an error without the cancellations in it; None for a cancellation alone."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1]
    return error
