"""Places in feeds: repeated, skipped, forked, chained to something else, stolen."""

from __future__ import annotations

import json

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope
from tests.hostile.case import Group, Recipe, Row, Sent, Stranger, base64url, made, resign
from tests.hostile.curve import ORDER, lifted
from tests.support.envelopes import edit

R = Reason


def _parked(name: str, recipe: Recipe, reason: Reason, before: int = 0) -> Row:
    return Row(name, recipe, reason, Outcome.IGNORED, "envelope_parked", before)


def _again(name: str, recipe: Recipe) -> Row:
    return Row(name, recipe, R.DUPLICATE, Outcome.IGNORED, before=1)


@made("a sound envelope twice")
def _twice(stranger: Stranger) -> Sent:
    raw = stranger.small_seed().raw
    return [raw, raw]


@made("a sound envelope, then the same with white space and another order of keys")
def _respelled(stranger: Stranger) -> Sent:
    raw = stranger.small_seed().raw
    value = json.loads(raw)
    return [raw, json.dumps(dict(reversed(value.items())), indent=1).encode()]


@made("a sound envelope, then the same with S + L in its signature")
def _malleated(stranger: Stranger) -> Sent:
    envelope = stranger.small_seed()
    signature = base64url(lifted(stranger.signer.sign(envelope.content), ORDER))
    return [envelope.raw, edit(envelope.raw, "meta.signature", signature)]


@made("a sound envelope, then the same under the id of its second")
def _under_another_id(stranger: Stranger) -> Sent:
    first, second = stranger.small_seed(), stranger.small_seed()
    return [first.raw, edit(first.raw, "meta.id", second.meta.id)]


@made("an envelope ahead of its feed, twice")
def _ahead_twice(stranger: Stranger) -> Sent:
    stranger.small_seed()
    raw = stranger.small_seed().raw
    return [raw, raw]


@made("the first and the third of a feed")
def _gap(stranger: Stranger) -> Sent:
    first, _, third = (stranger.small_seed() for _ in range(3))
    return [first.raw, third.raw]


def _far_ahead(seq: int) -> Recipe:
    def make(stranger: Stranger) -> Sent:
        stranger.seq, stranger.head = seq - 1, "0" * 64
        return stranger.small_seed()

    return Recipe(f"the first word of an author is its number {seq}", make)


@made("the second of a feed names another id before it")
def _broken(stranger: Stranger) -> Sent:
    first = stranger.small_seed()
    stranger.head = "f" * 64
    return [first.raw, stranger.small_seed().raw]


@made("the second of a feed names itself, as far as that can be")
def _own_tail(stranger: Stranger) -> Sent:
    first, second = stranger.small_seed(), stranger.small_seed()
    return [first.raw, resign(stranger.signer, second.raw, prev=second.meta.id)]


@made("the second of a feed is chained to the first of another")
def _others_chain(stranger: Stranger) -> Sent:
    first = stranger.small_seed()
    stranger.head = Stranger("the other chain", stranger.now_s, stranger.targets).small_seed().meta.id
    return [first.raw, stranger.small_seed().raw]


def _pair(stranger: Stranger) -> list[Envelope]:
    """Two envelopes for the first place, the one with the lower id first."""
    left = stranger.small_seed()
    stranger.seq, stranger.head = 0, ""
    right = stranger.small_seed(title="right")
    return sorted((left, right), key=lambda envelope: envelope.meta.id)


@made("two sound envelopes for the first place; the higher id comes second")
def _higher_second(stranger: Stranger) -> Sent:
    return [envelope.raw for envelope in _pair(stranger)]


@made("two sound envelopes for the first place; the lower id comes second")
def _lower_second(stranger: Stranger) -> Sent:
    return [envelope.raw for envelope in reversed(_pair(stranger))]


@made("two sound envelopes for the second place, ahead of their feed")
def _ahead(stranger: Stranger) -> Sent:
    stranger.small_seed()
    head = stranger.head
    one = stranger.small_seed()
    stranger.seq, stranger.head = 1, head
    return [one.raw, stranger.small_seed(title="right").raw]


@made("two for the first place, and the second again")
def _proof_again(stranger: Stranger) -> Sent:
    low, high = _pair(stranger)
    return [low.raw, high.raw, high.raw]


@made("two for the first place, and one that follows the first")
def _behind(stranger: Stranger) -> Sent:
    low, high = _pair(stranger)
    stranger.seq, stranger.head = 1, low.meta.id
    return [low.raw, high.raw, stranger.small_seed().raw]


PLACES = Group(
    "Places in feeds",
    "Soundly signed; their authors get the places that are theirs. A fork ends the feed; `fork_detected` tells of it.",
    [
        _again("twice", _twice),
        _again("twice, spelled otherwise", _respelled),
        _again("twice, malleated", _malleated),
        Row("twice, under another id", _under_another_id, R.WRONG_ID, before=1),
        Row("ahead, twice", _ahead_twice, R.DUPLICATE, Outcome.IGNORED, before=1),
        _parked("a gap", _gap, R.GAP, before=1),
        _parked("number 1000 first", _far_ahead(1_000), R.GAP),
        _parked("number 2^53 - 1 first", _far_ahead(2**53 - 1), R.GAP),
        _parked("a broken chain", _broken, R.BROKEN_CHAIN, before=1),
        _parked("its own tail", _own_tail, R.BROKEN_CHAIN, before=1),
        _parked("another's chain", _others_chain, R.BROKEN_CHAIN, before=1),
        Row("a fork", _higher_second, R.FORK, before=1),
        Row("a fork, the other way round", _lower_second, R.FORK, before=1),
        Row("a fork ahead of its feed", _ahead, R.FORK, before=1),
        Row("a fork, again", _proof_again, R.FEED_ENDED, Outcome.IGNORED, before=2),
        Row("behind a fork", _behind, R.FEED_ENDED, Outcome.IGNORED, before=2),
    ],
    keeps_place=True,
)


def stolen(raw: bytes, stranger: Stranger) -> bytes:
    """What another author said, as the first word of a stranger."""
    changes: JsonObject = {"from": stranger.id, "key_id": stranger.signer.key_id, "seq": 1, "prev": ""}
    return resign(stranger.signer, raw, **changes)
