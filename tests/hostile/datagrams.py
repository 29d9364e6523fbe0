"""Datagrams that are no envelope: noise, JSON of something else, broken fragments and requests."""

from __future__ import annotations

from crabnet import limits
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.fragment_wire import CHUNK_BYTES, split
from tests.hostile.case import Group, Recipe, Row, Stranger, data, made

BAD = "datagram_received_bad"
LARGEST = limits.DATAGRAM_RECEIVE_BYTES_MAX
HEAD = b"CRB2\x01" + bytes(32)


def _noise(name: str, how: str, datagram: bytes) -> Row:
    return Row(name, data(how, datagram), Reason.MALFORMED, event="" if datagram[:1] == b"{" else BAD)


def _fragment(name: str, how: str, datagram: bytes, event: str = "fragment_dropped") -> Row:
    return Row(name, data(how, datagram), Reason.MALFORMED_FRAGMENT, event=event)


NOISE = Group(
    "Noise",
    "Bytes that are no envelope. Nothing is known of who sent them but the address.",
    [
        Row("empty", data("a datagram without a byte", b""), Reason.EMPTY, event=BAD),
        _noise("one byte", "`00`", b"\x00"),
        _noise("white space", "space, newline, tab", b" \n\t"),
        _noise("a word", "`hello`", b"hello"),
        _noise("an array", "`[]`", b"[]"),
        _noise("a string", 'a JSON string, `"x"`', b'"x"'),
        _noise("null", "`null`", b"null"),
        _noise("every byte", "the bytes 0 to 255, four times", bytes(range(256)) * 4),
        _noise("largest of one letter", f"{LARGEST} times `A`", b"A" * LARGEST),
        _noise("byte order mark", "UTF-8 byte order mark, then `{}`", b"\xef\xbb\xbf{}"),
        _noise("UTF-16", "an object in UTF-16", '{"meta":{},"payload":{}}'.encode("utf-16")),
        _noise("HTTP", "a request of HTTP", b"GET / HTTP/1.1\r\n\r\n"),
        _noise("DNS", "a query of DNS for `.`", bytes.fromhex("123401000001000000000000000002" + "0001")),
        _noise("an open brace", "`{`", b"{"),
        _noise("largest of braces", f"{LARGEST} times `{{`", b"{" * LARGEST),
        _noise("an empty object", "`{}`", b"{}"),
        _noise("no payload", '`{"meta":{}}`', b'{"meta":{}}'),
        _noise("meta is a list", "`meta` is `[]`", b'{"meta":[],"payload":{}}'),
        _noise("meta is empty", "`meta` is `{}`", b'{"meta":{},"payload":{}}'),
        _noise("largest object", f"an object of {LARGEST} bytes", b'{"a":"' + b"a" * (LARGEST - 8) + b'"}'),
        _noise("nested arrays", "30000 arrays in one another", b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
        _noise("nested objects", "10000 objects in one another", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        _noise("many brackets", "21000 pairs of brackets side by side", b'{"a":[' + b"[]," * 21_000 + b"[]]}"),
        _noise("brackets in a string", "65000 open brackets in a string", b'{"a":"' + b"[" * 65_000 + b'"}'),
        _noise("invalid UTF-8", "`ff fe` in a string", b'{"a":"\xff\xfe"}'),
    ],
)


@made("a message in three fragments, with a byte of the second changed; the sum is wrong")
def _changed(stranger: Stranger) -> list[bytes]:
    first, second, third = split(stranger.small_seed(description="a" * 2_000).raw)
    return [first, second[:-1] + b"!", third]


@made("the same fragment twice, with other bytes the second time")
def _contradicting(stranger: Stranger) -> list[bytes]:
    message = stranger.small_seed(description="a" * 2_000).raw
    first = split(message)[0]
    return [first, first[:-1] + b"!"]


def _joined(how: str, message: bytes) -> Recipe:
    return Recipe(how, lambda _: split(message))


_LARGE = b'{"a":"' + b"a" * (limits.ENVELOPE_BYTES_MAX - 7) + b'"}'
FRAGMENTS = Group(
    "Fragments",
    "Datagrams that begin with `CRB2`. A broken one is dropped alone; what fragments join to is read like any message.",
    [
        _fragment("magic alone", "`CRB2`", b"CRB2", BAD),
        _fragment("unknown type", "type 3", b"CRB2\x03" + bytes(60), BAD),
        _fragment("cut in its head", "the first 20 bytes of a fragment", (HEAD + bytes(8))[:20], BAD),
        _fragment("of nothing", "no chunk", HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00", BAD),
        _fragment("too large", "1345 bytes", HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00" + b"{" * 1_300, BAD),
        _fragment("beyond its count", "index 5 of 2", HEAD + b"\x00\x05\x00\x02\x00\x00\x05\x00" + b"{" + bytes(1_154)),
        _fragment("count too low", "2 for 4 GiB", HEAD + b"\x00\x00\x00\x02\xff\xff\xff\xff" + b"{" + bytes(1_154)),
        _fragment("of a giant", "4 GiB in 65535", HEAD + b"\x00\x00\xff\xff\xff\xff\xff\xff" + b"{" + bytes(1_154)),
        _fragment("count 0", "of none", HEAD + b"\x00\x00\x00\x00\x00\x00\x05\x00" + b"{" + bytes(1_154)),
        _fragment("of a small message", "1155 bytes in one", HEAD + b"\x00\x00\x00\x01\x00\x00\x04\x83" + b"{" * 1_155),
        _fragment("chunk too short", "1154 bytes of 1155", HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00" + b"{" * 1_154),
        _fragment("of an array", "it begins with `[`", HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00" + b"[" * 1_155),
        _fragment("random", "the bytes 0 to 255 behind the magic", b"CRB2\x01" + bytes(range(256))),
        Row("one changed", _changed, Reason.MALFORMED_FRAGMENT, event="fragment_dropped"),
        Row("contradicting", _contradicting, Reason.MALFORMED_FRAGMENT, event="fragment_dropped"),
        Row("joined to no envelope", _joined("fragments of braces", b"{" * 3 * CHUNK_BYTES), Reason.MALFORMED),
        Row(
            "joined to too much",
            _joined(f"fragments of an object of {len(_LARGE)} bytes", _LARGE),
            Reason.TOO_LARGE,
        ),
        _fragment("request for nothing", "number 0", b"CRB2\x02" + bytes(34), BAD),
        _fragment("request cut", "2 named, 1 there", b"CRB2\x02" + bytes(32) + b"\x00\x02\x00\x01", BAD),
        _fragment("request out of order", "1, 0", b"CRB2\x02" + bytes(32) + b"\x00\x02\x00\x01\x00\x00", BAD),
        _fragment("request twice the same", "1, 1", b"CRB2\x02" + bytes(32) + b"\x00\x02\x00\x01\x00\x01", BAD),
        _fragment(
            "request for too many",
            "513 indexes",
            b"CRB2\x02" + bytes(32) + b"\x02\x01" + b"".join(at.to_bytes(2, "big") for at in range(513)),
            BAD,
        ),
    ],
)


@made("a sound seed in fragments, the last first, each of them twice")
def _shuffled(stranger: Stranger) -> list[bytes]:
    fragments = split(stranger.small_seed(description="a" * 4_000).raw)[::-1]
    return [fragment for fragment in fragments for _ in range(2)]


SOUND_FRAGMENTS = Row("fragments backwards and twice", _shuffled, None, Outcome.ACCEPTED)
