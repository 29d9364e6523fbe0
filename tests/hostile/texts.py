"""Spellings: JSON that is none, that two readers could read in two ways, that hides something; and odd, sound ones."""

from __future__ import annotations

import json
from collections.abc import Callable

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.envelope import Envelope
from tests.hostile.case import (
    Group,
    Recipe,
    Row,
    Sent,
    Stranger,
    edited,
    made,
    resigned,
    seed_with,
    sign_text,
    text,
    without,
)
from tests.hostile.datagrams import SOUND_FRAGMENTS

PRICE = b'"min_price":1,'


def _bad(name: str, recipe: Recipe, reason: Reason = Reason.MALFORMED) -> Row:
    return Row(name, recipe, reason)


def _not_whole(name: str, recipe: Recipe) -> Row:
    """It does not even begin like a message."""
    return Row(name, recipe, Reason.MALFORMED, event="datagram_received_bad")


def _price(name: str, spelling: bytes) -> Row:
    return _bad(name, text(PRICE, b'"min_price":' + spelling + b","))


def _title(name: str, spelling: bytes) -> Row:
    return _bad(name, text(b'"title":"t"', b'"title":' + spelling))


def _whole(how: str, change: Callable[[bytes], bytes]) -> Recipe:
    return Recipe(how, lambda stranger: change(stranger.small_seed().raw))


def _signed_as_it_stands(old: bytes, new: bytes) -> Recipe:
    """What somebody signs whose JSON is another one than ours."""

    def make(stranger: Stranger) -> Sent:
        content = stranger.small_seed().content
        if content.count(old) != 1:
            raise AssertionError(content)
        return sign_text(stranger.signer, content.replace(old, new))

    return Recipe(f"id and signature are those of a text in which `{old.decode()}` is `{new.decode()}`", make)


NUMBERS = Group(
    "Numbers",
    "Integers only, in plain decimal, within ±(2^53−1); whatever else is there makes the whole envelope unreadable.",
    [
        _price("NaN", b"NaN"),
        _price("Infinity", b"Infinity"),
        _price("minus Infinity", b"-Infinity"),
        _price("whole fraction", b"1.0"),
        _price("fraction", b"1.5"),
        _price("minus zero fraction", b"-0.0"),
        _price("exponent", b"1e3"),
        _price("capital exponent", b"1E3"),
        _price("exponent beyond floats", b"1e400"),
        _price("negative exponent", b"10e-1"),
        _price("leading zero", b"01"),
        _price("minus and leading zero", b"-01"),
        _price("plus sign", b"+1"),
        _price("no digit before the point", b".5"),
        _price("no digit behind the point", b"5."),
        _price("hexadecimal", b"0x1"),
        _price("underscore", b"1_0"),
        _price("full-width digit", "\uff11".encode()),
        _price("2^53", b"9007199254740992"),
        _price("minus 2^53", b"-9007199254740992"),
        _price("2^63", b"9223372036854775808"),
        _price("2^64 - 1", b"18446744073709551615"),
        _price("2^64", b"18446744073709551616"),
        _price("minus 2^64", b"-18446744073709551616"),
        _price("5000 digits", b"9" * 5_000),
        _bad("2^53, signed", seed_with(reward=2**53)),
        _bad("minus 2^53 in an unknown field, signed", seed_with(other=[{"x": -(2**53)}])),
        _bad("2^64 - 1 beside a high key, signed", seed_with(other={"\ue000": 2**64 - 1})),
        _bad("fraction, signed", _signed_as_it_stands(PRICE, b'"min_price":1.0,')),
        _bad("exponent, signed", _signed_as_it_stands(PRICE, b'"min_price":1e0,')),
    ],
)
STRINGS = Group(
    "Text",
    "UTF-8 without a byte order mark; no surrogates, no raw control characters; text is compared as it stands.",
    [
        _title("lone high surrogate", b'"\\ud800"'),
        _title("lone low surrogate", b'"\\udc00"'),
        _title("surrogates in the wrong order", b'"\\udc00\\ud800"'),
        _title("surrogate in UTF-8", b'"\xed\xa0\x80"'),
        _title("surrogate pair in UTF-8 (CESU-8)", b'"\xed\xa0\xbd\xed\xb8\x80"'),
        _title("overlong slash", b'"\xc0\xaf"'),
        _title("overlong NUL", b'"\xc0\x80"'),
        _title("overlong in three bytes", b'"\xe0\x80\xaf"'),
        _title("beyond U+10FFFF", b'"\xf4\x90\x80\x80"'),
        _title("cut character", b'"\xf0\x9f\x98"'),
        _title("stray continuation byte", b'"\x80"'),
        _title("Latin-1", b'"\xe9"'),
        _title("raw newline", b'"\n"'),
        _title("raw NUL", b'"\x00"'),
        _title("unknown escape", b'"\\x41"'),
        _title("short escape", b'"\\u12"'),
        _title("single quotes", b"'t'"),
        _bad("lone surrogate in a key", text(b'"title":"t"', b'"title":"t","\\ud800":1')),
        _not_whole("byte order mark", _whole("a byte order mark in front", lambda raw: b"\xef\xbb\xbf" + raw)),
        _bad("UTF-32", _whole("the envelope in UTF-32", lambda raw: raw.decode().encode("utf-32-le"))),
        _bad(
            "composed, signed decomposed",
            made("the title `e` with U+0301 is signed, `é` (U+00E9) is sent")(
                lambda stranger: stranger.small_seed(title="e\u0301").raw.replace("e\u0301".encode(), b"\xc3\xa9")
            ),
            Reason.WRONG_ID,
        ),
        _bad(
            "look-alike signed, other sent",
            made("the title `a` is signed, the Cyrillic U+0430 is sent")(
                lambda stranger: stranger.small_seed(title="a").raw.replace(b'"title":"a"', '"title":"\u0430"'.encode())
            ),
            Reason.WRONG_ID,
        ),
        _bad("zero-width space added", text(b'"title":"t"', '"title":"t\u200b"'.encode()), Reason.WRONG_ID),
    ],
)
STRUCTURE = Group(
    "Structure",
    "One object, no key twice, at most 16 deep, nothing behind it.",
    [
        _bad("truncated by a byte", _whole("the last byte is missing", lambda raw: raw[:-1])),
        _bad("cut in half", _whole("the first 300 bytes", lambda raw: raw[:300])),
        _bad("an object behind it", _whole("`{}` behind it", lambda raw: raw + b"{}")),
        _bad("itself behind it", _whole("twice in one datagram", lambda raw: raw * 2)),
        _bad("NUL behind it", _whole("a NUL behind it", lambda raw: raw + b"\x00")),
        _bad("a comma behind it", _whole("`,` behind it", lambda raw: raw + b",")),
        _not_whole("in an array", _whole("inside `[]`", lambda raw: b"[" + raw + b"]")),
        _not_whole("a space in front", _whole("a space in front", lambda raw: b" " + raw)),
        _not_whole("a line break in front", _whole("a newline in front", lambda raw: b"\r\n" + raw)),
        _bad("key twice, same value", text(PRICE, PRICE * 2)),
        _bad("key twice, other value", text(PRICE, b'"min_price":9,' + PRICE)),
        _bad("key twice, escaped", text(PRICE, b'"\\u006din_price":9,' + PRICE)),
        _bad("meta twice", text(b'"payload":', b'"meta":{},"payload":')),
        _bad("sender twice", text(b'"from":"', b'"from":"x","from":"')),
        _bad("comment", text(PRICE, b"/**/" + PRICE)),
        _bad("trailing comma", text(b'"title":"t"', b'"title":"t",')),
        _bad("bare key", text(b'"min_price":', b"min_price:")),
        _bad("16 arrays more", text(b'"min_price":1', b'"x":' + b"[" * 16 + b"]" * 16)),
        _bad("17 deep, signed", seed_with(other=[[[[[[[[[[[[[[[]]]]]]]]]]]]]]])),
        _bad("payload missing", edited("payload", ...)),
        _bad("payload null", edited("payload", None)),
        _bad("payload a list", edited("payload", [])),
        _bad("payload a string", edited("payload", "{}")),
        _bad("meta missing", edited("meta", ...)),
        _bad("meta a string", edited("meta", "{}")),
        _bad("field added outside", edited("more", 1), Reason.WRONG_ID),
        _bad("field added in the payload", edited("payload.more", 1), Reason.WRONG_ID),
        _bad("field added in meta", edited("meta.more", 1), Reason.WRONG_ID),
        _bad("field taken out", edited("payload.seed.reward", ...), Reason.WRONG_ID),
        _bad("title changed", edited("payload.seed.title", "other"), Reason.WRONG_ID),
        _bad("signed with spaces", _signed_as_it_stands(PRICE, b'"min_price": 1,'), Reason.WRONG_ID),
        _bad("signed with an escape", _signed_as_it_stands(b'"title":"t"', b'"title":"\\u0074"'), Reason.WRONG_ID),
        _bad(
            "signed out of order",
            _signed_as_it_stands(b'"max_bids":0,"min_price":1,', b'"min_price":1,"max_bids":0,'),
            Reason.WRONG_ID,
        ),
    ],
)


def _sound(name: str, recipe: Recipe) -> Row:
    return Row(name, recipe, None, Outcome.ACCEPTED)


def _respelled(how: str, spell: Callable[[object], bytes]) -> Recipe:
    return Recipe(how, lambda stranger: spell(json.loads(stranger.small_seed(title="Grüße 🦀").raw)))


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return value


def _all_escaped(envelope: Envelope) -> bytes:
    characters = "".join(f"\\u{ord(letter):04x}" for letter in "title")
    return envelope.raw.replace(b'"title"', b'"%s"' % characters.encode())


ODD = Group(
    "Odd, but sound",
    "What must not be refused: spellings are free on the wire, and text may hold anything that UTF-8 can.",
    [
        _sound("white space", _respelled("indented", lambda value: json.dumps(value, indent="\t").encode())),
        _sound("white space around", _whole("space and newlines behind it", lambda raw: raw + b"\r\n \t\n")),
        _sound(
            "keys backwards", _respelled("keys in reverse order", lambda value: json.dumps(_reversed(value)).encode())
        ),
        _sound("escapes", _respelled("all beyond ASCII escaped", lambda value: json.dumps(value).encode())),
        _sound("escaped key", made("the key `title` in escapes")(lambda stranger: _all_escaped(stranger.small_seed()))),
        _sound(
            "minus zero",
            made("`0` is signed, `-0` is sent")(
                lambda stranger: stranger.small_seed(min_price=0).raw.replace(b'"min_price":0', b'"min_price":-0')
            ),
        ),
        _sound("largest integer", seed_with(reward=2**53 - 1, other=-(2**53) + 1)),
        _sound("unknown fields", seed_with(other={"\ue000": 1, "\U0001f980": 2, "e\u0301": 3, "\u00e9": 4, "": 5})),
        _sound("unknown field in meta", resigned(more={"x": None})),
        _sound("default namespace, not named", without("ns")),
        _sound("bidirectional override", seed_with(title="\u202egnp.exe\u202c")),
        _sound("decomposed", seed_with(title="e\u0301")),
        _sound("noncharacters", seed_with(title="\ufffe\uffff\U0010ffff\ufeff")),
        _sound("control characters, escaped", seed_with(title="\x00\x1b[31m\x7f\x85")),
        _sound("512 characters beyond U+FFFF", seed_with(title="\U0001f980" * 512)),
        _sound("null for absent", seed_with(claim_deadline_ts=None)),
        SOUND_FRAGMENTS,
    ],
    keeps_place=True,
)
