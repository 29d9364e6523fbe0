"""The garbage collector of a process of Crabnet."""

import gc
from typing import Final

_COLLECT_AFTER: Final = 10_000
"""The collector runs when this many more objects were made than freed. Python's default is 700."""


def tune_collector() -> None:
    """Run the garbage collector less often: imports and nodes make many objects that stay, and few reference cycles."""
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
