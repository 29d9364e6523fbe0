"""Reads strict JSON and writes canonical JSON (RFC 8785). The rules are in docs/PROTOCOL.md, section 3.

Incoming JSON is I-JSON (RFC 7493) with further limits: one object, no duplicate keys, integers only and within plus or
minus 2^53-1 in signed envelopes, bounded depth. Within these limits the sorted output of ``msgspec`` is the RFC 8785
form. The exception is a key with characters beyond U+D7FF, because their UTF-16 order differs. This module then sorts
the keys itself.

This code reads bytes of strangers before their signature is checked. For speed, no loop here runs over single bytes.
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
    """The bytes are not JSON that the protocol allows. The text says why."""


def _refuse_float(text: str) -> float:
    raise JsonRefusedError(f"number {text[:32]} is not an integer")


def _whole(text: str) -> int:
    """A number that some programs write with a fraction, although it is whole."""
    value = float(text)
    if not value.is_integer() or abs(value) > limits.INTEGER_MAX:
        raise JsonRefusedError(f"number {text[:32]} is not an integer")
    return int(value)


_values: Final = msgspec.json.Decoder(float_hook=_refuse_float)
_values_of_programs: Final = msgspec.json.Decoder(float_hook=_whole)
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def parse_object(raw: bytes, *, whole_floats: bool = False) -> tuple[JsonObject, bytes]:
    """Parse one strict JSON object. Returns it and its canonical bytes. Raises ``JsonRefusedError``.

    With ``whole_floats``, numbers such as ``5.0`` are integers. That is for programs, not for what is signed.
    """
    nested = raw.count(b"{") + raw.count(b"[") > limits.JSON_DEPTH_MAX
    bare = _without_strings(raw) if nested else b""
    if nested:
        _check_depth(bare)
    try:
        value = (_values_of_programs if whole_floats else _values).decode(raw)
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
    """The RFC 8785 form of a value without floats. Integers of any size are written in full."""
    encoded = _encode(value)
    if encoded.isascii() or _BEYOND.search(encoded) is None or _plain_keys(value):
        return encoded
    return msgspec.json.encode(_ordered(value))


def integers_fit(raw: bytes, value: JsonValue, integer_max: int = limits.INTEGER_MAX, nonce: int = 0) -> bool:
    """True if no integer in ``value`` is beyond ± ``integer_max``, which is 2^53-1 or more. ``raw`` is its JSON.

    ``nonce`` is one of the integers in ``value``. If it is the only long one, as is usual, ``value`` is not searched.
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
    """The same value with all keys sorted by their UTF-16 code units."""
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
    """Remove the innermost pairs of brackets once for each allowed level. Raises if brackets are left then."""
    brackets = bare.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(limits.JSON_DEPTH_MAX):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise JsonRefusedError(f"nested more than {limits.JSON_DEPTH_MAX} deep, or with brackets that do not match")


def _check_duplicates(bare: bytes, canonical: bytes) -> None:
    """Raise if an object has a key twice.

    The canonical bytes hold one colon for each key. They hold fewer colons than the text if the text has a key twice.
    """
    if bare.count(b":") != _without_strings(canonical).count(b":"):
        raise JsonRefusedError("an object has a key twice")
