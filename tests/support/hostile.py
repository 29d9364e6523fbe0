"""What strangers may send to a node: broken datagrams, and well-signed envelopes that no rule allows."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

from crabnet.protocol.canonical import JsonObject, JsonValue, canonical_bytes
from crabnet.protocol.envelope import Envelope, Kind, envelope_id, seal
from crabnet.protocol.fragment_wire import split
from crabnet.protocol.identity import Signer
from tests.support.envelopes import Author, edit

RECEIVE_BYTES_MAX = 65_507
FRAGMENT_HEAD = b"CRB2\x01" + bytes(32)


@dataclass
class Case:
    """Datagrams that one stranger sends in this order; the last of them earns ``reason``."""

    name: str
    reason: str
    datagrams: list[bytes]
    waits: bool = field(default=False)
    """True if the event may say that the envelope waits for something."""


def small_seed(author: Author, now_s: int, **changes: JsonValue) -> Envelope:
    """A SeedCreated that nobody could object to, but for ``changes``."""
    return author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s, **changes)}, now_s)


def garbage() -> list[Case]:
    """Datagrams that are no envelope at all."""
    fragment = FRAGMENT_HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00"
    texts: dict[str, bytes] = {
        "one byte": b"\x00",
        "white space": b" \n\t",
        "a word": b"hello",
        "an array": b"[]",
        "a string": b'"x"',
        "null": b"null",
        "random bytes": bytes(range(256)) * 4,
        "largest of one letter": b"A" * RECEIVE_BYTES_MAX,
        "largest of braces": b"{" * RECEIVE_BYTES_MAX,
        "largest well-formed": b'{"a":"' + b"a" * (RECEIVE_BYTES_MAX - 8) + b'"}',
        "an open brace": b"{",
        "an empty object": b"{}",
        "no payload": b'{"meta":{}}',
        "meta is a list": b'{"meta":[],"payload":{}}',
        "nested arrays": b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        "nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "invalid UTF-8": b'{"a":"\xff\xfe"}',
        "byte order mark": b"\xef\xbb\xbf{}",
        "UTF-16": '{"meta":{},"payload":{}}'.encode("utf-16"),
        "lone surrogate": b'{"a":"\\ud800"}',
    }
    cases = [Case("empty", "empty", [b""])]
    cases += [Case(name, "malformed", [data]) for name, data in texts.items()]
    fragments = {
        "fragment magic alone": b"CRB2",
        "fragment of an unknown type": b"CRB2\x03" + bytes(60),
        "fragment cut in its head": fragment[:20],
        "fragment of nothing": fragment,
        "fragment beyond its count": FRAGMENT_HEAD + b"\x00\x05\x00\x02\x00\x00\x05\x00" + b"{" + bytes(1154),
        "fragment of a giant": FRAGMENT_HEAD + b"\x00\x00\xff\xff\xff\xff\xff\xff" + b"{" + bytes(1154),
        "fragment too large": FRAGMENT_HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00" + b"{" * 1_300,
        "fragment of an array": FRAGMENT_HEAD + b"\x00\x00\x00\x02\x00\x00\x05\x00" + b"[" * 1_155,
        "request for nothing": b"CRB2\x02" + bytes(34),
        "request for more than it names": b"CRB2\x02" + bytes(32) + b"\x00\x02\x00\x01",
        "request out of order": b"CRB2\x02" + bytes(32) + b"\x00\x02\x00\x01\x00\x00",
        "fragment random": b"CRB2\x01" + bytes(range(256)),
    }
    return cases + [Case(name, "malformed_fragment", [data]) for name, data in fragments.items()]


def tampered(now_s: int) -> list[Case]:
    """Envelopes with one thing wrong, so that their author gets no place in anybody's feeds."""

    def fresh(name: str, **changes: JsonValue) -> bytes:
        return small_seed(Author(f"tampered {name}"), now_s, **changes).raw

    def edited(name: str, path: str, value: object) -> bytes:
        return edit(fresh(name), path, value)

    def raw(name: str, old: bytes, new: bytes) -> bytes:
        data = fresh(name)
        assert data.count(old) == 1, (name, data)
        return data.replace(old, new)

    cases = [
        Case("truncated by a byte", "malformed", [fresh("truncated by a byte")[:-1]]),
        Case("cut in half", "malformed", [fresh("cut in half")[:300]]),
        Case("something behind it", "malformed", [fresh("something behind it") + b"{}"]),
        Case("NaN", "malformed", [raw("NaN", b'"min_price":1', b'"min_price":NaN')]),
        Case("Infinity", "malformed", [raw("Infinity", b'"min_price":1', b'"min_price":-Infinity')]),
        Case("fraction", "malformed", [raw("fraction", b'"min_price":1', b'"min_price":1.0')]),
        Case("exponent", "malformed", [raw("exponent", b'"min_price":1', b'"min_price":1e2')]),
        Case("2^53", "malformed", [raw("2^53", b'"min_price":1', b'"min_price":9007199254740992')]),
        Case("2^64", "malformed", [raw("2^64", b'"min_price":1', b'"min_price":18446744073709551616')]),
        Case("huge number", "malformed", [raw("huge number", b'"min_price":1', b'"min_price":' + b"9" * 5_000)]),
        Case("key twice", "malformed", [raw("key twice", b'"min_price":1', b'"min_price":1,"min_price":1')]),
        Case("comment", "malformed", [raw("comment", b'"min_price":1', b'/**/"min_price":1')]),
        Case("ts is text", "malformed", [edited("ts is text", "meta.ts", str(now_s))]),
        Case("ts is true", "malformed", [edited("ts is true", "meta.ts", True)]),
        Case("ts is below 0", "malformed", [edited("ts is below 0", "meta.ts", -1)]),
        Case("no sender", "malformed", [edited("no sender", "meta.from", ...)]),
        Case("no seq", "malformed", [edited("no seq", "meta.seq", ...)]),
        Case("seq 0 in a feed", "malformed", [edited("seq 0 in a feed", "meta.seq", 0)]),
        Case("first with a predecessor", "malformed", [edited("first", "meta.prev", "0" * 64)]),
        Case("payload is a list", "malformed", [edited("payload is a list", "payload", [])]),
        Case("id is short", "wrong_id", [edited("id is short", "meta.id", "00")]),
        Case("id of something else", "wrong_id", [edited("id of something else", "meta.id", "0" * 64)]),
        Case("title changed", "wrong_id", [edited("title changed", "payload.seed.title", "other")]),
        Case("field added", "wrong_id", [edited("field added", "payload.more", 1)]),
        Case("no version", "missing_signature", [edited("no version", "meta.v", ...)]),
        Case("empty signature", "missing_signature", [edited("empty signature", "meta.signature", "")]),
        Case("version 3", "unsupported_version", [edited("version 3", "meta.v", 3)]),
        Case("other namespace", "wrong_namespace", [other_namespace(now_s)]),
        Case("unknown kind outside feeds", "unknown_kind", [edited("unknown kind", "meta.kind", "Gossip")]),
        Case("signature of zeros", "bad_signature", [edited("zeros", "meta.signature", "A" * 86)]),
        Case("signature with padding", "bad_signature", [edited("padding", "meta.signature", "A" * 86 + "==")]),
        Case("signature of another", "bad_signature", [signed_by_another(now_s)]),
        Case("expired", "expired", [small_seed(Author("expired"), now_s - 50_000).raw]),
        Case("from the future", "from_the_future", [small_seed(Author("from the future"), now_s + 600).raw]),
    ]
    cases += [
        Case(f"{name} in a sealed envelope", reason, [resealed(name, now_s, **changes)])
        for name, reason, changes in [
            ("alg none", "unknown_algorithm", {"alg": "none"}),
            ("key_id of another", "unknown_key", {"key_id": Author("another").signer.key_id}),
            ("from a baseline id", "unknown_key", {"from": "node-6b8db7e2-53ba-429c-9a70-042ae379933c"}),
            ("from an RSA peer id", "unknown_key", {"from": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"}),
        ]
    ]
    return cases


def other_namespace(now_s: int) -> bytes:
    """A sound envelope of another network."""
    return small_seed(Author("other namespace", "elsewhere"), now_s).raw


def signed_by_another(now_s: int) -> bytes:
    """An envelope of one author with a signature that another made over it."""
    author, other = Author("signed by another"), Author("the other")
    envelope = small_seed(author, now_s)
    again = seal(
        other.signer, kind=Kind.SEED_CREATED, namespace="default", ts=now_s, nonce=1, payload=envelope.payload, seq=1
    )
    return edit(envelope.raw, "meta.signature", json.loads(again.raw)["meta"]["signature"])


def resealed(name: str, now_s: int, **changes: str) -> bytes:
    """An envelope whose id fits its content, with some ``meta`` fields that do not fit its author."""
    return rehash(small_seed(Author(f"resealed {name}"), now_s).raw, **changes)


def rehash(raw: bytes, **changes: str | int) -> bytes:
    """The envelope with some ``meta`` fields changed and its id made to fit; the signature stays as it was."""
    value = json.loads(raw)
    value["meta"].update(changes)
    signature = value["meta"].pop("signature")
    del value["meta"]["id"]
    value["meta"].update(id=envelope_id(canonical_bytes(value)), signature=signature)
    return json.dumps(value).encode()


def resign(signer: Signer, raw: bytes, **changes: str | int) -> bytes:
    """The envelope with some ``meta`` fields changed, and id and signature made to fit."""
    value = json.loads(raw)
    value["meta"].update(changes)
    del value["meta"]["id"], value["meta"]["signature"]
    content = canonical_bytes(value)
    signature = urlsafe_b64encode(signer.sign(content)).decode().rstrip("=")
    value["meta"].update(id=envelope_id(content), signature=signature)
    return json.dumps(value).encode()


def stolen(raw: bytes, name: str) -> bytes:
    """What another author said, as the first word of a stranger."""
    stranger = Author(f"thief {name}")
    changes: dict[str, str | int] = {"from": stranger.id, "key_id": stranger.signer.key_id, "seq": 1, "prev": ""}
    return resign(stranger.signer, raw, **changes)


@dataclass
class Targets:
    """The seeds of the node under attack, by what has become of them: their ``seed.show``."""

    creator: str
    open: JsonObject
    full: JsonObject
    claimed: JsonObject
    done: JsonObject
    accepted: JsonObject
    expired: JsonObject


def _part(details: JsonObject, name: str) -> JsonObject:
    rows = details[name]
    assert isinstance(rows, list)
    row = rows[0]
    assert isinstance(row, dict)
    return row


def _seed(details: JsonObject) -> JsonObject:
    seed = details["seed"]
    assert isinstance(seed, dict)
    return seed


class Stranger(Author):
    """Somebody with a sound key of its own who says what is not its to say."""

    def __init__(self, name: str, now_s: int) -> None:
        super().__init__(f"stranger {name}")
        self.now_s = now_s

    def state(self, kind: Kind, key: str, fields: JsonObject) -> bytes:
        """An envelope with one object."""
        body: JsonObject = {"id": self.next_object_id(), "created_at": self.now_s, **fields}
        return self.say(kind, {key: body}, self.now_s).raw

    def bid(self, seed: JsonObject, **changes: JsonValue) -> bytes:
        """A bid that nobody could object to, but for ``changes``."""
        fields: JsonObject = {"seed_id": seed["id"], "bidder": self.id, "price": 50}
        return self.state(Kind.BID_SUBMITTED, "bid", {**fields, **changes})

    def bid_at(self, seed: JsonObject, at_s: int) -> bytes:
        """A bid of another time."""
        self.now_s = at_s
        return self.bid(seed)

    def claim(self, details: JsonObject, **changes: JsonValue) -> bytes:
        """A claim of the first bid."""
        bid = _part(details, "bids")
        fields: JsonObject = {"seed_id": bid["seed_id"], "bid_id": bid["id"], "worker": bid["bidder"]}
        return self.state(Kind.CLAIM_CREATED, "claim", {**fields, **changes})

    def started(self, details: JsonObject, **changes: JsonValue) -> bytes:
        """The word that the claimed run begins."""
        claim = _part(details, "claims")
        fields: JsonObject = {"seed_id": claim["seed_id"], "claim_id": claim["id"], "worker": self.id}
        return self.state(Kind.TASK_STARTED, "run", {**fields, **changes})

    def result(self, details: JsonObject, **changes: JsonValue) -> bytes:
        """A result of the claimed run."""
        claim = _part(details, "claims")
        fields: JsonObject = {
            "seed_id": claim["seed_id"],
            "claim_id": claim["id"],
            "worker": self.id,
            "exit_code": 0,
            "timed_out": False,
            "stdout": "forged",
            "stderr": "",
            "output_hash": "0" * 64,
            "duration_ms": 1,
        }
        return self.state(Kind.TASK_RESULT, "result", {**fields, **changes})

    def settle(self, details: JsonObject, status: str, **changes: JsonValue) -> bytes:
        """A settlement of what stands there."""
        seed: JsonObject = {**_seed(details), "status": status, **changes}
        return self.say(Kind.TASK_SETTLE, {"seed": seed}, self.now_s).raw


def settling(details: JsonObject, status: str) -> Callable[[Stranger], bytes]:
    """Settles a seed."""
    return lambda stranger: stranger.settle(details, status)


def creating(seed: JsonObject, command: str | None) -> Callable[[Stranger], bytes]:
    """Creates a seed that is there, with its creator's name, or with another command and one's own name."""

    def make(stranger: Stranger) -> bytes:
        changes: JsonObject = {key: seed[key] for key in ("id", "title", "command", "created_by")}
        if command is not None:
            changes.update(command=command, created_by=stranger.id)
        return small_seed(stranger, stranger.now_s, **changes).raw

    return make


def unauthorised(targets: Targets, now_s: int) -> list[Case]:
    """Well-signed envelopes of strangers; each keeps its place in its author's feed, and has no effect."""
    cases: list[Case] = []

    def add(name: str, reason: str, make: Callable[[Stranger], bytes], *, waits: bool = False) -> None:
        cases.append(Case(name, reason, split(make(Stranger(name, now_s))), waits))

    seeds = {name: _seed(getattr(targets, name)) for name in ("open", "full", "claimed", "done", "accepted", "expired")}
    refused = "unauthorised"
    add("claims another's seed", refused, lambda s: s.claim(targets.open))
    add("claims it for itself", refused, lambda s: s.claim(targets.open, worker=s.id))
    add("claims a claimed seed", refused, lambda s: s.claim(targets.claimed))
    add("claims a settled seed", refused, lambda s: s.claim(targets.accepted, attempt=2))
    add("starts another's run", refused, lambda s: s.started(targets.claimed))
    add("starts it as the worker", refused, lambda s: s.started(targets.claimed, worker=targets.creator))
    add("returns a result for another", refused, lambda s: s.result(targets.claimed))
    add("returns it as the worker", refused, lambda s: s.result(targets.claimed, worker=targets.creator))
    add("returns another result", refused, lambda s: s.result(targets.done))
    for name in ("open", "claimed", "done", "accepted", "expired"):
        details: JsonObject = getattr(targets, name)
        for status in ("Accepted", "Rejected", "Forfeited", "Expired"):
            add(f"settles {name} as {status}", refused, settling(details, status))
        for status in ("Open", "Claimed", "Running", "Done"):
            add(f"moves {name} to {status}", "malformed", settling(details, status))
    for name, seed in seeds.items():
        add(f"creates {name} again", refused, creating(seed, None))
        add(f"creates {name} as its own", "wrong_id", creating(seed, "echo other"))
    add("bids for another", refused, lambda s: s.bid(seeds["open"], bidder=targets.creator))
    add("bids too little", "price_too_low", lambda s: s.bid(seeds["open"], price=4))
    add(
        "bids too late",
        "deadline_passed",
        lambda s: s.bid_at(seeds["expired"], int(str(seeds["expired"]["bid_deadline_ts"])) + 1),
    )
    add("bids one too many", "too_many_bids", lambda s: s.bid_at(seeds["full"], now_s + 2), waits=True)
    add("bids below zero", "malformed", lambda s: s.bid(seeds["open"], price=-1))
    add("bids in words", "malformed", lambda s: s.bid(seeds["open"], price="5"))
    add("bids nothing", "malformed", lambda s: s.say(Kind.BID_SUBMITTED, {}, now_s).raw)
    add("bids null", "malformed", lambda s: s.say(Kind.BID_SUBMITTED, {"bid": None}, now_s).raw)
    add("bids a seed", "malformed", lambda s: s.say(Kind.BID_SUBMITTED, {"seed": s.seed(now_s)}, now_s).raw)
    add("bids at another time", "malformed", lambda s: s.bid(seeds["open"], created_at=now_s - 1))
    add("bids under another's id", "wrong_id", lambda s: s.bid(seeds["open"], id=_part(targets.open, "bids")["id"]))
    add("bids for nothing known", "unknown_seed", lambda s: s.bid({"id": "no-such-seed"}), waits=True)
    add("notes too long", "malformed", lambda s: s.bid(seeds["open"], notes="x" * 5_000))
    add("offers an empty command", "malformed", lambda s: small_seed(s, now_s, command="").raw)
    add("offers for another", refused, lambda s: small_seed(s, now_s, created_by=targets.creator).raw)
    add("offers in a new kind", "unknown_kind", lambda s: praise(s, now_s), waits=True)
    return cases


def praise(stranger: Stranger, now_s: int) -> bytes:
    """A sound envelope of a kind that a later version may have."""
    return resign(stranger.signer, small_seed(stranger, now_s).raw, kind="SeedPraised")


def feed_tricks(now_s: int) -> list[Case]:
    """Envelopes of one author that do not follow one another."""

    def author_of(name: str) -> Author:
        return Author(f"feed {name}")

    twice = small_seed(author_of("sends twice"), now_s).raw
    ahead = author_of("leaves a gap")
    first, _, third = (small_seed(ahead, now_s) for _ in range(3))
    broken = author_of("breaks its chain")
    whole = small_seed(broken, now_s)
    broken.head = "f" * 64
    forks = author_of("forks")
    left = small_seed(forks, now_s)
    forks.seq, forks.head = 0, ""
    right = small_seed(forks, now_s, title="right")
    low, high = sorted((left, right), key=lambda envelope: envelope.meta.id)
    return [
        Case("sends twice", "duplicate", [twice, twice]),
        Case("leaves a gap", "gap", [first.raw, third.raw], waits=True),
        Case("breaks its chain", "broken_chain", [whole.raw, small_seed(broken, now_s).raw], waits=True),
        Case("forks", "fork", [low.raw, high.raw]),
        Case("talks without a feed", "malformed", [bad_hello(now_s)]),
        Case("asks for too much", "malformed", [bad_request(now_s)]),
    ]


def bad_hello(now_s: int) -> bytes:
    """A hello that says nothing of who is there."""
    author = Author("hello")
    return seal(author.signer, kind=Kind.NODE_HELLO, namespace="default", ts=now_s, nonce=1, payload={}).raw


def bad_request(now_s: int) -> bytes:
    """A request with more wants than one may have."""
    author = Author("request")
    wants: list[JsonValue] = [[author.id, 1, 64] for _ in range(17)]
    payload: JsonObject = {"wants": wants}
    return seal(author.signer, kind=Kind.FEED_REQUEST, namespace="default", ts=now_s, nonce=1, payload=payload).raw
