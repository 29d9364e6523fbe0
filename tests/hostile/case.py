"""The form of the corpus: one row says what is sent, how it is made, and how a node answers it.

Every row is sent by somebody new, with a key of its own, from an address of its own.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from crabnet.domain.state import Outcome
from crabnet.errors import Reason
from crabnet.protocol.canonical import JsonObject, JsonValue, canonical_bytes
from crabnet.protocol.envelope import Envelope, Kind, envelope_id
from crabnet.protocol.fragment_wire import split
from crabnet.protocol.identity import SIGNATURE_BYTES, Signer
from tests.support.envelopes import Author, edit


@dataclass(frozen=True)
class Targets:
    """The seeds of the node under attack, by what has become of them: their ``seed.show``."""

    creator: str
    open: JsonObject
    full: JsonObject
    claimed: JsonObject
    done: JsonObject
    accepted: JsonObject
    expired: JsonObject

    def details(self, name: str) -> JsonObject:
        """Everything about one of the seeds."""
        return cast(JsonObject, getattr(self, name))

    def seed(self, name: str) -> JsonObject:
        """One of the seeds."""
        return cast(JsonObject, self.details(name)["seed"])

    def part(self, name: str, rows: str) -> JsonObject:
        """The first of the ``bids``, ``claims`` … of one of the seeds."""
        return cast(JsonObject, cast(list[JsonValue], self.details(name)[rows])[0])

    def last_of(self, name: str, *rows: str) -> JsonValue:
        """The envelope of the first of these that one of the seeds has any of, or of the seed itself."""
        found = next((self.part(name, each) for each in rows if self.details(name)[each]), self.seed(name))
        return found["envelope_id"]


class Stranger(Author):
    """Somebody with a sound key, who sends one row of the corpus. Times in seconds."""

    def __init__(self, name: str, now_s: int, targets: Targets) -> None:
        super().__init__(f"stranger {name}")
        self._key_seed = hashlib.sha256(f"stranger {name}".encode()).digest()
        self.now_s = now_s
        self.targets = targets

    def sign_raw(self, message: bytes) -> bytes:
        """This stranger's Ed25519 signature of these very bytes, without DSSE."""
        _, secret = crypto_sign_seed_keypair(self._key_seed)
        return crypto_sign(message, secret)[:SIGNATURE_BYTES]

    def small_seed(self, **changes: JsonValue) -> Envelope:
        """A SeedCreated that nobody could object to, but for ``changes`` of the seed."""
        return self.say(Kind.SEED_CREATED, {"seed": self.seed(self.now_s, **changes)}, self.now_s)

    def state(self, kind: Kind, key: str, fields: JsonObject) -> Envelope:
        """An envelope with one object of this stranger."""
        body: JsonObject = {"id": self.next_object_id(), "created_at": self.now_s, **fields}
        return self.say(kind, {key: body}, self.now_s)

    def bids(self, seed: str = "open", **changes: JsonValue) -> Envelope:
        """A bid that nobody could object to, but for ``changes``."""
        seed_id = self.targets.seed(seed)["id"]
        fields: JsonObject = {"seed_id": seed_id, "bidder": self.id, "price": 50}
        fields["rests_on"] = self.targets.last_of(seed)
        return self.state(Kind.BID_SUBMITTED, "bid", {**fields, **changes})

    def claims(self, seed: str = "open", **changes: JsonValue) -> Envelope:
        """A claim of the first bid."""
        bid = self.targets.part(seed, "bids")
        fields: JsonObject = {"seed_id": bid["seed_id"], "bid_id": bid["id"], "worker": bid["bidder"]}
        fields["rests_on"] = bid["envelope_id"]
        return self.state(Kind.CLAIM_CREATED, "claim", {**fields, **changes})

    def starts(self, seed: str = "claimed", **changes: JsonValue) -> Envelope:
        """The word that the claimed run begins."""
        claim = self.targets.part(seed, "claims")
        fields: JsonObject = {"seed_id": claim["seed_id"], "claim_id": claim["id"], "worker": self.id}
        fields["rests_on"] = claim["envelope_id"]
        return self.state(Kind.TASK_STARTED, "run", {**fields, **changes})

    def returns(self, seed: str = "claimed", **changes: JsonValue) -> Envelope:
        """A result of the claimed run."""
        claim = self.targets.part(seed, "claims")
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
            "rests_on": self.targets.last_of(seed, "runs", "claims"),
        }
        return self.state(Kind.TASK_RESULT, "result", {**fields, **changes})

    def settles(self, seed: str, status: JsonValue, **changes: JsonValue) -> Envelope:
        """A settlement of what stands there."""
        rows = ("claims",) if status in {"Forfeited", "Expired"} else ("results", "claims")
        rests_on = self.targets.last_of(seed, *rows)
        settled: JsonObject = {**self.targets.seed(seed), "status": status, "rests_on": rests_on, **changes}
        return self.say(Kind.TASK_SETTLE, {"seed": settled}, self.now_s)

    def acknowledges(self, seed: str = "accepted", **changes: JsonValue) -> Envelope:
        """The word that a settlement was seen."""
        fields: JsonObject = {"seed_id": self.targets.seed(seed)["id"], "worker": self.id}
        fields["rests_on"] = self.targets.last_of(seed, "settlements")
        return self.state(Kind.SETTLE_ACKNOWLEDGED, "acknowledgement", {**fields, **changes})


Sent = bytes | Envelope | list[bytes]


@dataclass(frozen=True)
class Recipe:
    """How something is made, in words and in code."""

    how: str
    make: Callable[[Stranger], Sent]


@dataclass(frozen=True)
class Row:
    """One row of the corpus.

    ``reason`` is None and ``outcome`` accepted for what looks odd and is sound. ``event`` is the kind of the event that
    tells of it, where it is not that of the outcome. ``before`` counts envelopes that are taken before the one that
    matters.
    """

    name: str
    recipe: Recipe
    reason: Reason | None
    outcome: Outcome = Outcome.REJECTED
    event: str = ""
    before: int = 0

    @property
    def event_kind(self) -> str:
        """The kind of the monitor event."""
        return self.event or f"envelope_{self.outcome.value}"

    def datagrams(self, now_s: int, targets: Targets) -> list[bytes]:
        """What is sent, in this order."""
        sent = self.recipe.make(Stranger(self.name, now_s, targets))
        if isinstance(sent, Envelope):
            return split(sent.raw)
        return [sent] if isinstance(sent, bytes) else sent


@dataclass(frozen=True)
class Group:
    """Rows of one sort. ``keeps_place``: their authors get a place in everybody's feeds, though no effect."""

    title: str
    text: str
    rows: Sequence[Row]
    keeps_place: bool = False


def data(how: str, datagram: bytes) -> Recipe:
    """A datagram as it stands."""
    return Recipe(how, lambda _: datagram)


def text(old: bytes, new: bytes) -> Recipe:
    """A sound envelope with a part of its text replaced; ``old`` stands there once."""

    def make(stranger: Stranger) -> bytes:
        raw = stranger.small_seed().raw
        if raw.count(old) != 1:
            raise AssertionError(f"{old!r} is there {raw.count(old)} times")
        return raw.replace(old, new)

    shown = new if len(new) <= 60 else new[:24] + b" ... " + new[-16:]
    return Recipe(f"in its text `{_shown(old)}` becomes `{_shown(shown)}`", make)


def edited(path: str, value: object) -> Recipe:
    """A sound envelope with one field changed, or taken out (Ellipsis); id and signature stay."""
    what = "is taken out" if value is ... else f"becomes `{brief(value)}`"
    return Recipe(f"`{path}` {what}", lambda stranger: edit(stranger.small_seed().raw, path, value))


def rehashed(**meta: JsonValue) -> Recipe:
    """A sound envelope with fields of ``meta`` changed and its id made to fit; the signature stays."""
    how = f"`meta` gets `{brief(meta)}`; the id is made to fit, the signature stays"
    return Recipe(how, lambda stranger: rehash(stranger.small_seed().raw, **meta))


def resigned(**meta: JsonValue) -> Recipe:
    """A sound envelope with fields of ``meta`` changed, and id and signature made to fit."""
    how = f"`meta` gets `{brief(meta)}`; id and signature are made to fit"
    return Recipe(how, lambda stranger: resign(stranger.signer, stranger.small_seed().raw, **meta))


def without(field: str) -> Recipe:
    """A sound envelope whose author has left a field of ``meta`` out, and signed that."""

    def make(stranger: Stranger) -> bytes:
        value = json.loads(stranger.small_seed().raw)
        del value["meta"][field]
        return resign(stranger.signer, json.dumps(value).encode())

    return Recipe(f"`meta.{field}` is left out before signing", make)


def seed_with(**seed: JsonValue) -> Recipe:
    """A seed, soundly signed, that holds these values."""
    return Recipe(f"its author signs a seed with `{brief(seed)}`", lambda stranger: stranger.small_seed(**seed))


def made(how: str) -> Callable[[Callable[[Stranger], Sent]], Recipe]:
    """Decorator for what is made by a function of its own."""
    return lambda make: Recipe(how, make)


def rehash(raw: bytes, **changes: JsonValue) -> bytes:
    """The envelope with some ``meta`` fields changed and its id made to fit; the signature stays as it was."""
    value = json.loads(raw)
    value["meta"].update(changes)
    signature = value["meta"].pop("signature")
    del value["meta"]["id"]
    value["meta"].update(id=envelope_id(canonical_bytes(value)), signature=signature)
    return json.dumps(value).encode()


def resign(signer: Signer, raw: bytes, **changes: JsonValue) -> bytes:
    """The envelope with some ``meta`` fields changed, and id and signature made to fit."""
    value = json.loads(raw)
    value["meta"].update(changes)
    del value["meta"]["id"], value["meta"]["signature"]
    content = canonical_bytes(value)
    value["meta"].update(id=envelope_id(content), signature=base64url(signer.sign(content)))
    return json.dumps(value).encode()


def sign_text(signer: Signer, content: bytes) -> bytes:
    """An envelope whose content is this text as it stands, canonical or not, with id and signature over this text."""
    meta = b'{"meta":{"id":"%s","signature":"%s",' % (
        envelope_id(content).encode(),
        base64url(signer.sign(content)).encode(),
    )
    head = b'{"meta":{'
    if not content.startswith(head):
        raise AssertionError(content[:40])
    return meta + content.removeprefix(head)


def base64url(signature: bytes) -> str:
    """As signatures are written."""
    return urlsafe_b64encode(signature).decode().rstrip("=")


def brief(value: object) -> str:
    """JSON for people, cut when long."""
    shown = json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= 70 else f"{shown[:50]} … ({len(shown)} characters)"


def _shown(part: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in part)
