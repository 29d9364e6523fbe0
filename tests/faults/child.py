"""A process that works on a ledger and says what it tries and what was acknowledged: the victim of the C shim."""

from __future__ import annotations

import sys
from pathlib import Path

from crabnet.errors import CrabnetError
from crabnet.storage.files import RealFiles
from tests.faults.workload import STEPS, Trail, run


class Spoken(list[int]):
    """A list that says aloud what it gets, before anything else can happen."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def append(self, number: int) -> None:
        super().append(number)
        sys.stdout.write(f"{self._word} {number}\n")
        sys.stdout.flush()


def main() -> int:
    trail = Trail(Spoken("TRY"), Spoken("ACK"))
    try:
        run(RealFiles(), Path(sys.argv[1]), trail, STEPS)
    except CrabnetError as error:
        sys.stdout.write(f"ERROR {error}\n")
    for violation in trail.violations:
        sys.stdout.write(f"VIOLATION {violation}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
