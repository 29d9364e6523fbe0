"""Strict JSON in, RFC 8785 bytes out.

Incoming JSON is I-JSON (RFC 7493) narrowed further: one object, no duplicate keys, integers only and within plus or
minus 2^53-1 in signed envelopes, bounded depth. Within those bounds ``msgspec``'s sorted output is the RFC 8785 form,
unless a key holds characters beyond U+D7FF, whose UTF-16 order differs: then the keys are put in order here.

Whatever a stranger sends is read before its signature is checked, so no loop here runs over single bytes.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from crabnet import limits

JsonValue = None | bool | int | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]

_DIGITS_ONLY: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
_LONG_NUMBER: Final = b"0" * 16
_LONG_MIN: Final = 10**15
_PLAIN_KEY_MAX: Final = "\ud7ff"
_BEYOND: Final = re.compile(rb"[\xee-\xf4]")
"""First bytes, in UTF-8, of characters beyond U+D7FF."""
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


class JsonRefusedError(ValueError):
    """The bytes are not the JSON that the protocol allows; the text says why."""


def _refuse_float(text: str) -> float:
    raise JsonRefusedError(f"number {text[:32]} is not an integer")


_values: Final = msgspec.json.Decoder(float_hook=_refuse_float)
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def parse_object(raw: bytes) -> tuple[JsonObject, bytes]:
    """One strict JSON object, and its canonical bytes. Raises ``JsonRefusedError``."""
    nested = raw.count(b"{") + raw.count(b"[") > limits.JSON_DEPTH_MAX
    bare = _without_strings(raw) if nested else b""
    if nested:
        _check_depth(bare)
    try:
        value = _values.decode(raw)
        if not isinstance(value, dict):
            raise JsonRefusedError("the top level is not an object")
        canonical = canonical_bytes(value)
    except RecursionError as error:
        raise JsonRefusedError("nested too deeply") from error
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise JsonRefusedError(str(error)[:200]) from error
    if canonical != raw:
        _check_duplicates(bare or _without_strings(raw), canonical)
    return value, canonical


def canonical_bytes(value: JsonValue) -> bytes:
    """The RFC 8785 form of a value that holds no floats. Integers are written in full, whatever their size."""
    encoded = _encode(value)
    if encoded.isascii() or _BEYOND.search(encoded) is None or _plain_keys(value):
        return encoded
    return msgspec.json.encode(_ordered(value))


def integers_fit(raw: bytes, value: JsonValue, integer_max: int = limits.INTEGER_MAX, nonce: int = 0) -> bool:
    """True if no integer in ``value``, whose JSON is ``raw``, is beyond ± ``integer_max``, which is 2^53-1 or more.

    ``nonce`` is one of the integers in ``value``, mostly the only long one: then ``value`` need not be searched.
    """
    long_numbers = raw.translate(_DIGITS_ONLY).count(_LONG_NUMBER)
    if long_numbers == 0 or (long_numbers == 1 and _LONG_MIN <= nonce <= integer_max):
        return True
    return _integers_fit(value, integer_max)


def _integers_fit(value: JsonValue, integer_max: int) -> bool:
    if isinstance(value, int):
        return -integer_max <= value <= integer_max
    if isinstance(value, dict):
        return all(_integers_fit(item, integer_max) for item in value.values())
    return all(_integers_fit(item, integer_max) for item in value) if isinstance(value, list) else True


def _plain_keys(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return all(max(key, default="") <= _PLAIN_KEY_MAX and _plain_keys(item) for key, item in value.items())
    return (
        all(_plain_keys(item) for item in value if isinstance(item, dict | list)) if isinstance(value, list) else True
    )


def _ordered(value: JsonValue) -> JsonValue:
    """The same value with all keys in the order of their UTF-16 code units."""
    if isinstance(value, dict):
        return {key: _ordered(value[key]) for key in sorted(value, key=_utf16)}
    if isinstance(value, list):
        return [_ordered(item) if isinstance(item, dict | list) else item for item in value]
    return value


def _utf16(key: str) -> bytes:
    return key.encode("utf-16-be")


def _without_strings(raw: bytes) -> bytes:
    return _STRING.sub(b"", raw)


def _check_depth(bare: bytes) -> None:
    """Take the innermost pairs of brackets away once for each level that is allowed; then nothing may be left."""
    brackets = bare.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(limits.JSON_DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise JsonRefusedError(f"nested more than {limits.JSON_DEPTH_MAX} deep, or brackets that do not match")


def _check_duplicates(bare: bytes, canonical: bytes) -> None:
    """Count colons: what was read holds one for each key, and fewer than the text if it had a key twice."""
    if bare.count(b":") != _without_strings(canonical).count(b":"):
        raise JsonRefusedError("an object holds a key twice")
