"""Short names for the facts of a record: a prefix of ``Fact.ref`` that only one of its facts has.

An accomplice can start and end a dispute with each of its envelopes. Each time, the journal names all facts that this
concerns. Short names keep these journal records small.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

_CHARS_MIN: Final = 6


def shortened(refs: Iterable[str], among: Iterable[str]) -> tuple[str, ...]:
    """The shortest prefix of each of ``refs``, of at least six characters, that no other of ``among`` has."""
    names = sorted({*among})
    short = []
    for ref in refs:
        at = bisect_left(names, ref)
        near = [*names[max(0, at - 1) : at], *names[at + 1 : at + 2]]
        chars = max([_CHARS_MIN, *(1 + _shared(ref, other) for other in near)])
        short.append(ref[:chars])
    return tuple(short)


def resolved(short: Iterable[str], among: Iterable[str]) -> list[str]:
    """The full names for the prefixes from ``shortened``. A prefix of no name is left out."""
    names = sorted({*among})
    found = []
    for each in short:
        at = bisect_left(names, each)
        if at < len(names) and names[at].startswith(each):
            found.append(names[at])
    return found


def _shared(one: str, other: str) -> int:
    """The length of the common prefix of two names."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)
