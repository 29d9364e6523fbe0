"""``meta``: time, nonce, place in a feed, kind, version and namespace."""

from __future__ import annotations

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from tests.hostile.case import Group, Recipe, Row, Stranger, edited, made, rehashed, resigned
from tests.support.envelopes import edit

R = Reason


def _edit(name: str, path: str, value: object, reason: Reason = R.MALFORMED) -> Row:
    return Row(name, edited(path, value), reason)


def _ignored(name: str, recipe: Recipe, reason: Reason) -> Row:
    return Row(name, recipe, reason, Outcome.IGNORED)


@made("a sound envelope of the namespace `elsewhere`")
def _elsewhere(stranger: Stranger) -> bytes:
    return _in_namespace("elsewhere", stranger)


def _in_namespace(namespace: str, stranger: Stranger) -> bytes:
    stranger.namespace = namespace
    return stranger.small_seed().raw


def _at(how: str, offset_s: int) -> Recipe:
    def make(stranger: Stranger) -> bytes:
        stranger.now_s += offset_s
        return stranger.small_seed().raw

    return Recipe(how, make)


HEADS = Group(
    "The head",
    "A sound SeedCreated of a new author with something wrong in `meta`. None of these is remembered.",
    [
        _edit("time as text", "meta.ts", "1"),
        _edit("time true", "meta.ts", True),
        _edit("time null", "meta.ts", None),
        _edit("time missing", "meta.ts", ...),
        _edit("time below 0", "meta.ts", -1),
        _edit("time 2^53", "meta.ts", 2**53),
        _ignored("time 0", edited("meta.ts", 0), R.EXPIRED),
        _ignored("time 2^53 - 1", edited("meta.ts", 2**53 - 1), R.FROM_THE_FUTURE),
        _ignored("expired", _at("sealed 12 hours and a minute ago", -43_260), R.EXPIRED),
        _ignored("from the future", _at("sealed 10 minutes ahead", 600), R.FROM_THE_FUTURE),
        _edit("nonce below 0", "meta.nonce", -1),
        _edit("nonce 2^53", "meta.nonce", 2**53),
        _edit("nonce as text", "meta.nonce", "1"),
        _edit("nonce missing", "meta.nonce", ...),
        _edit("nonce changed", "meta.nonce", 7, R.WRONG_ID),
        _edit("seq missing", "meta.seq", ...),
        _edit("seq 0 in a feed", "meta.seq", 0),
        _edit("seq below 0", "meta.seq", -1),
        _edit("seq as text", "meta.seq", "1"),
        _edit("seq true", "meta.seq", True),
        _edit("seq 2^53", "meta.seq", 2**53),
        _edit("first with a predecessor", "meta.prev", "0" * 64),
        _edit("second without one", "meta.seq", 2),
        Row("second after upper case", resigned(seq=2, prev="A" * 64), R.MALFORMED),
        Row("second after 63 digits", resigned(seq=2, prev="0" * 63), R.MALFORMED),
        Row("second after full-width digits", resigned(seq=2, prev="\uff10" * 64), R.MALFORMED),
        _edit("prev missing", "meta.prev", ...),
        _edit("prev null", "meta.prev", None),
        _edit("id null", "meta.id", None),
        _edit("id empty", "meta.id", ""),
        _edit("id of 129 characters", "meta.id", "0" * 129),
        _edit("id short", "meta.id", "00", R.WRONG_ID),
        _edit("id of zeros", "meta.id", "0" * 64, R.WRONG_ID),
        Row(
            "id in upper case",
            Recipe(
                "the right id in upper case",
                lambda s: edit((raw := s.small_seed()).raw, "meta.id", raw.meta.id.upper()),
            ),
            R.WRONG_ID,
        ),
        _edit("sender missing", "meta.from", ...),
        _edit("sender null", "meta.from", None),
        _edit("sender empty", "meta.from", ""),
        _edit("sender of 129 characters", "meta.from", "1" * 129),
        _edit("kind of 65 characters", "meta.kind", "K" * 65),
        _edit("kind null", "meta.kind", None),
        _edit("kind a number", "meta.kind", 1),
        _ignored("kind unknown, outside feeds", rehashed(kind="Gossip", seq=0), R.UNKNOWN_KIND),
        _ignored("kind unknown, unsigned", edited("meta.kind", "SeedPraised"), R.UNKNOWN_KIND),
        _ignored("kind in small letters", edited("meta.kind", "seedcreated"), R.UNKNOWN_KIND),
        _ignored("kind with a space", edited("meta.kind", "SeedCreated "), R.UNKNOWN_KIND),
        _ignored("kind empty", edited("meta.kind", ""), R.UNKNOWN_KIND),
        _ignored("kind with a Cyrillic letter", edited("meta.kind", "Se\u0435dCreated"), R.UNKNOWN_KIND),
        _edit("other kind of the same shape", "meta.kind", "TaskSettle", R.WRONG_ID),
        _edit("version missing", "meta.v", ..., R.MISSING_SIGNATURE),
        _edit("version null", "meta.v", None, R.MISSING_SIGNATURE),
        _edit("version as text", "meta.v", "2"),
        _edit("version true", "meta.v", True),
        _edit("version 2^53", "meta.v", 2**53),
        _ignored("version 3", edited("meta.v", 3), R.UNSUPPORTED_VERSION),
        _ignored("version 1", edited("meta.v", 1), R.UNSUPPORTED_VERSION),
        _ignored("version 0", edited("meta.v", 0), R.UNSUPPORTED_VERSION),
        _ignored("version -2", edited("meta.v", -2), R.UNSUPPORTED_VERSION),
        _edit("namespace null", "meta.ns", None),
        _edit("namespace of 65 characters", "meta.ns", "n" * 65),
        _ignored("other namespace", _elsewhere, R.WRONG_NAMESPACE),
        _ignored("namespace empty", resigned(ns=""), R.WRONG_NAMESPACE),
        _ignored("namespace in capitals", resigned(ns="DEFAULT"), R.WRONG_NAMESPACE),
        _ignored("namespace with a NUL", resigned(ns="default\x00"), R.WRONG_NAMESPACE),
        _ignored("namespace with a Cyrillic letter", resigned(ns="d\u0435fault"), R.WRONG_NAMESPACE),
        Row(
            "moved here from another namespace",
            Recipe(
                "sealed for `elsewhere`, then `ns` is set to ours",
                lambda s: edit(_in_namespace("elsewhere", s), "meta.ns", "default"),
            ),
            R.WRONG_ID,
        ),
    ],
)
