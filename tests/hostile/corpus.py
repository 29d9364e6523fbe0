"""The whole corpus: every group, in the order of the verification."""

from __future__ import annotations

from tests.hostile.authority import AUTHORITY
from tests.hostile.case import Group
from tests.hostile.datagrams import FRAGMENTS, NOISE
from tests.hostile.heads import HEADS
from tests.hostile.keys import SIGNATURES
from tests.hostile.payloads import PAYLOADS
from tests.hostile.places import PLACES
from tests.hostile.talking import TALK
from tests.hostile.texts import NUMBERS, ODD, STRINGS, STRUCTURE

CORPUS: list[Group] = [
    NOISE,
    FRAGMENTS,
    NUMBERS,
    STRINGS,
    STRUCTURE,
    HEADS,
    SIGNATURES,
    TALK,
    PLACES,
    PAYLOADS,
    AUTHORITY,
    ODD,
]
