"""Strict JSON in, RFC 8785 out."""

from __future__ import annotations

import json

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from crabnet.protocol.canonical import JsonRefusedError, JsonValue, canonical_bytes, integers_fit, parse_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = TEXT | st.sampled_from(
    ["", "a", "\ue000", "\uffff", "😀", "\U00010000", "\ud7ff", "é", "e\u0301", "\x00", "\x7f"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)


@given(OBJECTS)
def test_equals_the_reference_encoder(value: dict[str, JsonValue]) -> None:
    assert canonical_bytes(value) == rfc8785.dumps(value)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_parsing_any_spelling_gives_the_canonical_form(
    value: dict[str, JsonValue], escaped: bool, indent: int | str | None
) -> None:
    spelled = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    try:
        parsed, canonical = parse_object(spelled)
    except JsonRefusedError as error:
        assert "deep" in str(error)  # noqa: PT017 - the only refusal that is right here
        return
    assert parsed == value
    assert canonical == rfc8785.dumps(value)
    assert len(canonical) <= len(spelled)
    assert parse_object(canonical) == (value, canonical)


@given(st.binary(max_size=60) | TEXT.map(str.encode) | OBJECTS.map(lambda value: json.dumps(value).encode()[:-1]))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        value, canonical = parse_object(raw)
    except JsonRefusedError:
        return
    assert parse_object(canonical)[0] == value


@given(OBJECTS.map(rfc8785.dumps), st.data())
def test_any_change_of_valid_json_is_parsed_or_refused(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 3)) :]
    try:
        value, canonical = parse_object(changed)
    except JsonRefusedError:
        return
    assert parse_object(canonical)[0] == value


def nested(depth: int) -> bytes:
    """An object with arrays inside, ``depth`` levels in all."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


REFUSED = {
    "empty": b"",
    "white space only": b"  \n",
    "not json": b"hello",
    "array": b"[]",
    "string": b'"{}"',
    "number": b"1",
    "null": b"null",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"a":1}'.encode("utf-16"),
    "unclosed": b'{"a":1',
    "unclosed string": b'{"a":"x}',
    "trailing text": b'{"a":1} x',
    "trailing zero byte": b'{"a":1}\x00',
    "two objects": b'{"a":1}{"a":1}',
    "two lines": b'{"a":1}\n{"a":1}',
    "trailing comma in object": b'{"a":1,}',
    "trailing comma in array": b'{"a":[1,]}',
    "comment": b'{"a":1/*x*/}',
    "single quotes": b"{'a':1}",
    "bare key": b"{a:1}",
    "number key": b'{1:"a"}',
    "same key twice": b'{"a":1,"a":1}',
    "same key twice, escaped": b'{"\\u0061":1,"a":2}',
    "same key twice, in between": b'{"a":1,"b":2,"a":3}',
    "same key twice, inside": b'{"a":{"b":1,"b":1}}',
    "same key twice, inside an array": b'{"a":[0,{"b":1,"b":1}]}',
    "same empty key twice": b'{"":1,"":2}',
    "same key beyond U+FFFF twice": '{"😀":1,"\\ud83d\\ude00":1}'.encode(),
    "fraction": b'{"a":1.5}',
    "whole fraction": b'{"a":1.0}',
    "exponent": b'{"a":1e2}',
    "capital exponent": b'{"a":1E2}',
    "negative exponent": b'{"a":1e-2}',
    "huge exponent": b'{"a":1e999}',
    "negative zero fraction": b'{"a":-0.0}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "minus Infinity": b'{"a":-Infinity}',
    "leading zero": b'{"a":01}',
    "plus sign": b'{"a":+1}',
    "minus only": b'{"a":-}',
    "hexadecimal": b'{"a":0x10}',
    "number of 5000 digits": b'{"a":' + b"9" * 5_000 + b"}",
    "True": b'{"a":True}',
    "undefined": b'{"a":undefined}',
    "raw control character": b'{"a":"\x01"}',
    "raw newline in string": b'{"a":"\n"}',
    "unknown escape": b'{"a":"\\x41"}',
    "short escape": b'{"a":"\\u12"}',
    "lone high surrogate": b'{"a":"\\ud800"}',
    "lone low surrogate": b'{"a":"\\udc00"}',
    "surrogates in the wrong order": b'{"a":"\\udc00\\ud800"}',
    "lone surrogate in a key": b'{"\\ud800":1}',
    "surrogate in utf-8": b'{"a":"\xed\xa0\x80"}',
    "invalid utf-8": b'{"a":"\xff"}',
    "cut utf-8": b'{"a":"\xf0\x9f\x98"}',
    "overlong utf-8": b'{"a":"\xc0\xaf"}',
    "invalid utf-8 in a key": b'{"\xff":1}',
    "nested 17 deep": nested(17),
    "nested 100000 deep": nested(100_000),
    "objects 17 deep": b'{"a":' * 17 + b"1" + b"}" * 17,
    "unclosed, 100000 deep": b'{"a":' * 100_000,
    "nested 17 deep behind many pairs": b'{"a":[' + b"[]," * 1_000 + b"[" * 15 + b"]" * 15 + b"]}",
    "nested 17 deep behind brackets in strings": b'{"]]]]":"\\"]]]]","a":' + b"[" * 16 + b"]" * 16 + b"}",
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_refused(raw: bytes) -> None:
    with pytest.raises(JsonRefusedError):
        parse_object(raw)


TAKEN = {
    "empty object": (b"{}", b"{}"),
    "white space around": (b" \r\n\t{} \n", b"{}"),
    "minus zero": (b'{"a":-0}', b'{"a":0}'),
    "escapes": (
        b'{"a":"\\u0041\\/\\b\\f\\n\\r\\t\\"\\\\\\u0000\\u001F\\u007f"}',
        b'{"a":"A/\\b\\f\\n\\r\\t\\"\\\\\\u0000\\u001f\x7f"}',
    ),
    "surrogate pair": (b'{"a":"\\ud83d\\ude00"}', '{"a":"😀"}'.encode()),
    "line separators stay": ('{"a":"\u2028\u2029"}'.encode(), '{"a":"\u2028\u2029"}'.encode()),
    "no normalisation": ('{"e\u0301":"\u00e9"}'.encode(), '{"e\u0301":"\u00e9"}'.encode()),
    "keys by utf-16 code units": ('{"\ue000":1,"😀":2}'.encode(), '{"😀":2,"\ue000":1}'.encode()),
    "keys inside as well": ('{"a":[{"\uffff":1,"𐀀":2}]}'.encode(), '{"a":[{"𐀀":2,"\uffff":1}]}'.encode()),
    "16 deep": (nested(16), nested(16)),
    "brackets in strings do not nest": (b'{"a":"' + b"[{" * 50 + b'\\""}', b'{"a":"' + b"[{" * 50 + b'\\""}'),
    "same key in different objects": (b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]}',) * 2,
    "large integers": (b'{"a":18446744073709551615}', b'{"a":18446744073709551615}'),
    "large integers beside a key beyond U+D7FF": (
        '{"\ue000":{"b":18446744073709551615,"a":[-9007199254740993]},"😀":1}'.encode(),
        '{"😀":1,"\ue000":{"a":[-9007199254740993],"b":18446744073709551615}}'.encode(),
    ),
    "many pairs side by side": (b'{"a":[' + b"[]," * 1_000 + b"{}]}",) * 2,
    "16 deep behind brackets in strings": (b'{"[[[{":"\\"[[[[","a":' + b"[" * 15 + b"]" * 15 + b"}",) * 2,
}


@pytest.mark.parametrize(("raw", "canonical"), TAKEN.values(), ids=TAKEN.keys())
def test_taken(raw: bytes, canonical: bytes) -> None:
    assert parse_object(raw)[1] == canonical


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"a": 2**53 - 1}, True),
        ({"a": -(2**53) + 1}, True),
        ({"a": 2**53}, False),
        ({"a": -(2**53)}, False),
        ({"a": [1, {"b": [2**53]}]}, False),
        ({"a": str(2**60)}, True),
        ({str(2**60): True}, True),
    ],
)
def test_integers_fit(value: dict[str, JsonValue], fits: bool) -> None:
    assert integers_fit(canonical_bytes(value), value) is fits


def test_integers_fit_a_given_bound() -> None:
    for integer in (2**64 - 1, -(2**64) + 1):
        assert integers_fit(b"%d" % integer, integer, 2**64 - 1)
    assert not integers_fit(b"%d" % 2**64, 2**64, 2**64 - 1)


@pytest.mark.parametrize("nonce", [0, 10**15 - 1, 10**15, 2**53 - 1])
@pytest.mark.parametrize("other", [7, 10**15, 2**53 - 1, 2**53, -(2**53), 10**40])
def test_a_nonce_that_fits_hides_no_other_integer(nonce: int, other: int) -> None:
    value: dict[str, JsonValue] = {"nonce": nonce, "other": other}
    assert integers_fit(canonical_bytes(value), value, nonce=nonce) is (abs(other) < 2**53)


@pytest.mark.parametrize("nonce", [2**53, 10**16, 10**31, 10**40])
def test_a_nonce_that_does_not_fit_is_found(nonce: int) -> None:
    value: dict[str, JsonValue] = {"nonce": nonce}
    assert not integers_fit(canonical_bytes(value), value, nonce=nonce)
