"""Changes to valid inputs that know what they change: JSON trees, their spelling, bytes, the words of the formats.

All chance comes from a ``Random`` that Hypothesis gives, so that it can shrink what fails.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random

from crabnet.protocol.canonical import JsonObject, JsonValue

INTEGERS = [-(2**63), -(2**53), -(2**53) + 1, -1, 0, 1, 2, 2**31, 2**53 - 1, 2**53, 2**63, 2**64 - 1, 2**64, 10**30]
STRINGS = [
    "",
    "a",
    "0" * 64,
    "A" * 86,
    "ed25519",
    "default",
    "SeedCreated",
    "FeedHeads",
    "Accepted",
    "12D3KooW",
    "\x00",
    "\u202e",
    "\ue000",
    "\U0001f980",
    "e\u0301",
    "\ufeff",
    "x" * 65,
    "x" * 129,
    "x" * 5_000,
]
TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\\udc00",
    b"NaN",
    b"-0",
    b"1e3",
    b"1.0",
    b"01",
    b"-",
    b"9" * 20,
    b"null",
    b"true",
    b"\x00",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xee\x80\x80",
    b"\n",
    b" ",
    b"/**/",
    b'"a":1,',
    b'"seq":2,',
    b'"v":2,',
    b'"meta":{},',
    b"[" * 20,
    b"CRB2\x01",
    b"CRB2\x02",
    b"\x00\x01",
    b"\xff\xff",
    b"\xff" * 8,
]


def some_value(rng: Random, others: Sequence[JsonValue]) -> JsonValue:
    """A value that stands at some border, or a part of another valid input."""
    choice = rng.randrange(8)
    if choice < 2:
        return rng.choice(INTEGERS)
    if choice < 4:
        return rng.choice(STRINGS)
    if choice == 4:
        return rng.choice([None, True, False])
    if choice == 5:
        return [copy.deepcopy(rng.choice(others))] * rng.choice([0, 1, 2, 17, 65])
    if choice == 6:
        deep: JsonValue = 1
        for _ in range(rng.choice([1, 12, 13, 14, 15, 16, 40])):
            deep = [deep] if rng.randrange(2) else {"a": deep}
        return deep
    return copy.deepcopy(rng.choice(others))


def parts(value: JsonValue) -> list[JsonValue]:
    """The value and everything in it."""
    found = [value]
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += parts(inner)
    return found


def mutate_tree(value: JsonObject, rng: Random, others: Sequence[JsonValue]) -> JsonObject:
    """One change somewhere in the tree. Changes ``value`` itself."""
    place = rng.choice([part for part in parts(value) if isinstance(part, dict | list) and part] or [value])
    if isinstance(place, list):
        at = rng.randrange(len(place))
        choice = rng.randrange(4)
        if choice == 0:
            del place[at]
        elif choice == 1:
            place.insert(at, some_value(rng, others))
        elif choice == 2 and len(place) < 50:
            place *= rng.choice([2, 20])
        else:
            place[at] = some_value(rng, others)
        return value
    if not place:
        place["a"] = some_value(rng, others)
        return value
    key = rng.choice(sorted(place))
    number = text = place[key]
    choice = rng.randrange(6)
    if choice == 0:
        del place[key]
    elif choice == 1:
        place[rng.choice(STRINGS)] = some_value(rng, others)
    elif choice == 2:
        place[rng.choice(STRINGS)] = place.pop(key)
    elif choice == 3 and type(number) is int:
        place[key] = number + rng.choice([-1, 1, 2**32, -(2**53)])
    elif choice == 4 and isinstance(text, str):
        at = rng.randrange(len(text) + 1)
        place[key] = text[:at] + rng.choice(STRINGS[:-1]) + text[at + rng.randrange(2) :]
    else:
        place[key] = some_value(rng, others)
    return value


def spell(value: JsonValue, rng: Random) -> bytes:
    """The JSON of a value, in one of the ways to write it."""
    choice = rng.randrange(4)
    if choice == 0:
        return json.dumps(value, ensure_ascii=True).encode()
    if choice == 1:
        return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    if choice == 2 and isinstance(value, dict):
        value = dict(reversed(value.items()))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """One change somewhere in the bytes."""
    at = rng.randrange(len(data) + 1)
    choice = rng.randrange(7)
    if choice == 0:
        return data[:at]
    if choice == 1:
        return data[:at] + rng.choice(TOKENS) + data[at:]
    if choice == 2:
        return data[:at] + rng.choice(TOKENS) + data[at + rng.choice([1, 2, 8]) :]
    if choice == 3 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    end = min(len(data), at + rng.choice([1, 2, 10, 100]))
    if choice == 4:
        return data[:at] + data[end:]
    if choice == 5:
        return data[:end] + data[at:end] * rng.choice([1, 2, 50]) + data[end:]
    return data + rng.choice(TOKENS)
