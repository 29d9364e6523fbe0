"""Talk of neighbours that breaks its rules: hellos, heads, requests. None of it has a place in a feed."""

from __future__ import annotations

import json
from collections.abc import Callable

from crabnet import limits
from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject, JsonValue
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.fork_proof import document_of
from crabnet.protocol.fragment_wire import split
from tests.hostile.case import Group, Recipe, Row, Sent, Stranger, made, resign
from tests.support.envelopes import edit

R = Reason
ZEROS = "0" * 64
NAMES_MAX = limits.SYNC_NAMES_PER_MESSAGE_MAX


def _talk(stranger: Stranger, kind: Kind, payload: JsonObject) -> bytes:
    return seal(stranger.signer, kind=kind, namespace="default", ts=stranger.now_s, nonce=1, payload=payload).raw


def _said(kind: Kind, how: str, payload: Callable[[Stranger], JsonObject]) -> Recipe:
    return Recipe(f"a {kind} with {how}", lambda stranger: _talk(stranger, kind, payload(stranger)))


def _hello(name: str, how: str, reason: Reason = R.MALFORMED, **changes: JsonValue) -> Row:
    def payload(stranger: Stranger) -> JsonObject:
        return {"identity": {"node_id": stranger.id}, "challenge": "", "echo": "", **changes}

    return Row(name, _said(Kind.NODE_HELLO, how, payload), reason)


def _heads(name: str, how: str, heads: JsonValue) -> Row:
    return Row(name, _said(Kind.FEED_HEADS, how, lambda _: {"heads": heads}), R.MALFORMED)


def _request(name: str, how: str, wants: JsonValue) -> Row:
    return Row(name, _said(Kind.FEED_REQUEST, how, lambda _: {"wants": wants}), R.MALFORMED)


def _parts(name: str, kind: Kind, how: str, **payload: JsonValue) -> Row:
    return Row(name, _said(kind, how, lambda _: payload), R.MALFORMED)


def _proofs(name: str, how: str, wants: JsonValue) -> Row:
    return Row(name, _said(Kind.FORK_REQUEST, how, lambda _: {"wants": wants}), R.MALFORMED)


def _prune(name: str, how: str, authors: JsonValue) -> Row:
    return Row(name, _said(Kind.RELAY_PRUNE, how, lambda _: {"authors": authors}), R.MALFORMED)


def _good_hello(stranger: Stranger) -> bytes:
    return _talk(stranger, Kind.NODE_HELLO, {"identity": {"node_id": stranger.id}, "challenge": "", "echo": ""})


@made("a hello that speaks for the node itself")
def _for_the_node(stranger: Stranger) -> Sent:
    return _talk(stranger, Kind.NODE_HELLO, {"identity": {"node_id": stranger.targets.creator}})


@made("a hello with number 1 in a feed")
def _in_a_feed(stranger: Stranger) -> Sent:
    return resign(stranger.signer, _good_hello(stranger), seq=1)


@made("a hello with a predecessor")
def _with_predecessor(stranger: Stranger) -> Sent:
    return resign(stranger.signer, _good_hello(stranger), prev=ZEROS)


@made("a sound hello with another challenge")
def _changed(stranger: Stranger) -> Sent:
    return edit(_good_hello(stranger), "payload.challenge", "x")


@made("a sound hello, twice")
def _twice(stranger: Stranger) -> Sent:
    return [_good_hello(stranger)] * 2


@made("a sound hello of 13 hours ago")
def _old(stranger: Stranger) -> Sent:
    stranger.now_s -= 13 * 3600
    return _good_hello(stranger)


@made("heads of 13 hours ago, for which nobody asked")
def _old_heads(stranger: Stranger) -> Sent:
    stranger.now_s -= 13 * 3600
    return _talk(stranger, Kind.FEED_HEADS, {"heads": [[stranger.id, 5, ZEROS]]})


@made("a sound request signed by nobody")
def _unsigned(stranger: Stranger) -> Sent:
    raw = _talk(stranger, Kind.FEED_REQUEST, {"wants": [[stranger.targets.creator, 1, 64]]})
    return edit(raw, "meta.signature", "A" * 86)


@made("a sound seed with a field `envelopes` beside `meta`, whose text does not begin like a fork proof")
def _proof_like(stranger: Stranger) -> Sent:
    value = json.loads(stranger.small_seed().raw)
    return resign(stranger.signer, json.dumps({**value, "envelopes": []}).encode())


@made("a sound proof that its author forked its feed, for which nobody asked")
def _proof(stranger: Stranger) -> Sent:
    one = stranger.small_seed().raw
    stranger.seq, stranger.head = 0, ""
    return split(document_of(*sorted((one, stranger.small_seed(title="other").raw))))


TALK = Group(
    "Talk",
    "Hellos, heads, requests, forks: signed, but broken. Nothing of it is remembered.",
    [
        Row("hello of nothing", _said(Kind.NODE_HELLO, "an empty payload", lambda _: {}), R.MALFORMED),
        _hello("hello of no identity", "`identity` null", identity=None),
        _hello("hello of an empty identity", "`identity` empty", identity={}),
        _hello("hello of a nameless", "an empty `node_id`", identity={"node_id": ""}),
        _hello("hello for another", "another's `node_id`", R.UNAUTHORISED, identity={"node_id": "12D3KooWother"}),
        Row("hello for the node itself", _for_the_node, R.UNAUTHORISED),
        _hello("challenge too long", "a challenge of 65 characters", challenge="c" * 65),
        _hello("challenge a number", "the challenge 1", challenge=1),
        _hello("echo too long", "an echo of 65 characters", echo="e" * 65),
        _hello("echo null", "the echo null", echo=None),
        Row("hello in a feed", _in_a_feed, R.MALFORMED),
        Row("hello after another", _with_predecessor, R.MALFORMED),
        Row("hello changed", _changed, R.WRONG_ID),
        Row("hello twice", _twice, R.DUPLICATE, Outcome.IGNORED),
        Row("hello of yesterday", _old, R.EXPIRED, Outcome.IGNORED),
        Row("heads of yesterday", _old_heads, R.EXPIRED, Outcome.IGNORED),
        Row("heads of nothing", _said(Kind.FEED_HEADS, "an empty payload", lambda _: {}), R.MALFORMED),
        _heads("heads null", "heads null", None),
        _heads("heads an object", "an object for heads", {}),
        _heads("too many heads", "65 heads", [["a", 1, ZEROS]] * 65),
        _heads("head of two", "a head without an id", [["a", 1]]),
        _heads("head with an end below 0", "a head that ends before -1", [["a", 1, ZEROS, -1]]),
        _heads("head with an end in text", 'a head that ends before "2"', [["a", 1, ZEROS, "2"]]),
        _heads("head with a truth for an end", "a head that ends before true", [["a", 1, ZEROS, True]]),
        _heads("head below 0", "a head at -1", [["a", -1, ZEROS]]),
        _heads("head at text", 'a head at "1"', [["a", "1", ZEROS]]),
        _heads("head of nobody", "a head without an author", [["", 1, ZEROS]]),
        _heads("head in capitals", "a head with an id in capitals", [["a", 1, "A" * 64]]),
        _heads("head of 63 digits", "a head with an id too short", [["a", 1, "0" * 63]]),
        _heads("head with a line break", "a head with a newline behind its id", [["a", 1, ZEROS + "\n"]]),
        _heads("head in a head", "a list for an author", [[["a"], 1, ZEROS]]),
        _parts("root too short", Kind.FEED_HEADS, "a root of 31 digits", heads=[], root="0" * 31),
        _parts("root in capitals", Kind.FEED_HEADS, "a root in capitals", heads=[], root="A" * 32),
        _parts("root a number", Kind.FEED_HEADS, "a number for a root", heads=[], root=0),
        _parts("bucket of 15", Kind.FEED_HEADS, "a bucket of 15 digests", heads=[], buckets=[["", [""] * 15]]),
        _parts("bucket of 17", Kind.FEED_HEADS, "a bucket of 17 digests", heads=[], buckets=[["", [""] * 17]]),
        _parts("bucket of words", Kind.FEED_HEADS, "a bucket `xyz`", heads=[], buckets=[["xyz", []]]),
        _parts("bucket too deep", Kind.FEED_HEADS, "a bucket of 65 digits", heads=[], buckets=[["0" * 65, []]]),
        _parts("too many buckets", Kind.FEED_HEADS, "65 buckets", heads=[], buckets=[["0", []]] * 65),
        _parts("served from 0", Kind.FEED_HEADS, "an answer from 0", heads=[], served=[["a", 0, 1]]),
        _parts("served below 0", Kind.FEED_HEADS, "an answer up to -1", heads=[], served=[["a", 1, -1]]),
        _parts("served backwards", Kind.FEED_HEADS, "an answer from 9 to 7", heads=[], served=[["a", 9, 7]]),
        _parts("too many served", Kind.FEED_HEADS, "65 answers", heads=[], served=[["a", 1, 1]] * 65),
        _parts("wants no bucket", Kind.FEED_REQUEST, "a wish for the bucket `G`", wants=[], buckets=["G"]),
        _parts("wants a numbered bucket", Kind.FEED_REQUEST, "a number for a bucket", wants=[], buckets=[1]),
        _parts("wants too many buckets", Kind.FEED_REQUEST, "65 buckets wanted", wants=[], buckets=["0"] * 65),
        Row("request of nothing", _said(Kind.FEED_REQUEST, "an empty payload", lambda _: {}), R.MALFORMED),
        _request("wants null", "wants null", None),
        _request("too many wants", "17 wants", [["a", 1, 64]] * 17),
        _request("want from 0", "a want from 0", [["a", 0, 64]]),
        _request("want up to 0", "a want up to 0", [["a", 1, 0]]),
        _request("want that ends before it begins", "a want from 9 to 8", [["a", 9, 8]]),
        _request("want of one end", "a want without an end", [["a", 1]]),
        _request("want of text", "a want from text", [["a", "1", 64]]),
        _request("want of nobody", "a want without an author", [["", 1, 64]]),
        _parts("name of one", Kind.FEED_REQUEST, "a name without an id", wants=[], names=[["a"]]),
        _parts("name of no seed", Kind.FEED_REQUEST, "a name without a seed", wants=[], names=[["", ZEROS]]),
        _parts("name in capitals", Kind.FEED_REQUEST, "an id in capitals", wants=[], names=[["a", "A" * 64]]),
        _parts("too many names", Kind.FEED_REQUEST, "many names", wants=[], names=[["a", ZEROS]] * (NAMES_MAX + 1)),
        Row("request of nobody", _unsigned, R.BAD_SIGNATURE),
        Row("proofs of nothing", _said(Kind.FORK_REQUEST, "an empty payload", lambda _: {}), R.MALFORMED),
        _proofs("too many proofs", "17 wants", [["a", 1]] * 17),
        _proofs("proof at 0", "a want at 0", [["a", 0]]),
        Row("prune of nothing", _said(Kind.RELAY_PRUNE, "an empty payload", lambda _: {}), R.MALFORMED),
        _prune("prune of nobody", "an author without a name", [""]),
        _prune("prune of a number", "a number for an author", [1]),
        _prune("prune of too many", "300 authors", ["a"] * 300),
        Row(
            "decline of nothing",
            _said(Kind.BID_DECLINED, "an empty payload", lambda _: {}),
            R.UNSOLICITED,
            Outcome.IGNORED,
        ),
        Row(
            "decline of an unknown seed",
            _said(Kind.BID_DECLINED, "a seed that nobody holds", lambda _: {"seed_id": "4711", "reason": "busy"}),
            R.UNSOLICITED,
            Outcome.IGNORED,
        ),
        Row("seed with envelopes", _proof_like, R.MALFORMED),
        Row("proof unasked", _proof, R.UNSOLICITED, Outcome.IGNORED),
    ],
)
