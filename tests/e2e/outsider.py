"""A second implementation of the protocol, written from docs/PROTOCOL.md alone: it imports nothing of ours."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import time
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
PREFIX = bytes.fromhex("002408011220")
TYPE = "application/vnd.crabnet.envelope.v2+json"
NS = uuid.UUID("fbb25c7a-9072-5020-a790-22890dbbd9ef")
DATAGRAM_BYTES = 1200
CHUNK_BYTES = 1155
TALK = {"NodeHello", "FeedHeads", "FeedRequest"}


def base58(raw: bytes) -> str:
    """Section 2."""
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = ALPHABET[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


def key_of(node_id: str) -> bytes:
    """The public key inside a node id; ValueError if there is none."""
    number = 0
    for letter in node_id:
        number = number * 58 + ALPHABET.index(letter)
    raw = number.to_bytes(38, "big")
    if raw[:6] != PREFIX or base58(raw) != node_id:
        raise ValueError(node_id)
    return raw[6:]


def jcs(value: Any) -> bytes:
    """Section 3: RFC 8785 for values without fractions."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return b"{" + b",".join(jcs(key) + b":" + jcs(value[key]) for key in keys) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(jcs, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def pae(content: bytes) -> bytes:
    """Section 4."""
    return f"DSSEv1 {len(TYPE)} {TYPE} {len(content)} ".encode() + content


def content_of(envelope: dict[str, Any]) -> bytes:
    """Section 4."""
    meta = {name: value for name, value in envelope["meta"].items() if name not in ("id", "signature")}
    return jcs({**envelope, "meta": meta})


def verify(raw: bytes) -> dict[str, Any]:
    """Section 9, steps 3 to 12 as far as they concern an honest peer; ValueError otherwise."""
    envelope: dict[str, Any] = json.loads(raw)
    meta = envelope["meta"]
    content = content_of(envelope)
    if meta["v"] != 2 or meta["alg"] != "ed25519" or meta["ns"] != "default":
        raise ValueError("not for us")
    if meta["id"] != hashlib.sha256(content).hexdigest():
        raise ValueError("wrong id")
    key = key_of(meta["from"])
    if meta["key_id"] != "ed25519:" + hashlib.sha256(key).hexdigest()[:32]:
        raise ValueError("wrong key")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(urlsafe_b64decode(meta["signature"] + "=="), pae(content))
    except InvalidSignature as error:
        raise ValueError("bad signature") from error
    return envelope


class Outsider:
    """A peer with one UDP socket. ``mute`` keeps its own envelopes to itself until they are asked for."""

    def __init__(self, node: tuple[str, int], private_key: bytes | None = None) -> None:
        self.private_key = private_key or os.urandom(32)
        self.key = Ed25519PrivateKey.from_private_bytes(self.private_key)
        public = self.key.public_key().public_bytes_raw()
        self.id = base58(PREFIX + public)
        self.key_id = "ed25519:" + hashlib.sha256(public).hexdigest()[:32]
        self.node = node
        self.mute = False
        self.feeds: dict[str, list[dict[str, Any]]] = {}
        self.heard: list[dict[str, Any]] = []
        self.partial: dict[bytes, dict[int, bytes]] = {}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    # --- speaking --------------------------------------------------------------------------------------

    def seal(self, kind: str, payload: dict[str, Any], seq: int, prev: str, ts: int | None = None) -> dict[str, Any]:
        """Section 4."""
        meta: dict[str, Any] = {
            "from": self.id,
            "kind": kind,
            "ts": int(time.time()) if ts is None else ts,
            "nonce": int.from_bytes(os.urandom(6), "big"),
            "v": 2,
            "ns": "default",
            "alg": "ed25519",
            "key_id": self.key_id,
            "seq": seq,
            "prev": prev,
        }
        content = jcs({"meta": meta, "payload": payload})
        meta["id"] = hashlib.sha256(content).hexdigest()
        meta["signature"] = urlsafe_b64encode(self.key.sign(pae(content))).decode().rstrip("=")
        return {"meta": meta, "payload": payload}

    def send(self, raw: bytes) -> None:
        """Section 11: whole, or in fragments."""
        if len(raw) <= DATAGRAM_BYTES:
            self.socket.sendto(raw, self.node)
            return
        digest = hashlib.sha256(raw).digest()
        count = -(-len(raw) // CHUNK_BYTES)
        for index in range(count):
            head = b"CRB2\x01" + digest + struct.pack(">HHI", index, count, len(raw))
            self.socket.sendto(head + raw[index * CHUNK_BYTES :][:CHUNK_BYTES], self.node)

    def talk(self, kind: str, payload: dict[str, Any]) -> None:
        """Say something that belongs to no feed."""
        self.send(jcs(self.seal(kind, payload, 0, "")))

    def next_id(self) -> str:
        """Section 5."""
        return str(uuid.uuid5(NS, f"default/{self.id}/{len(self.feeds.get(self.id, [])) + 1}"))

    def named(self, author: str, kind: str, name: str, object_id: str) -> str:
        """The id of the envelope that states an object: what the next step rests on (section 8)."""
        for envelope in self.feeds.get(author, []):
            if envelope["meta"]["kind"] == kind and envelope["payload"][name]["id"] == object_id:
                return str(envelope["meta"]["id"])
        raise LookupError(object_id)

    def say(self, kind: str, name: str, **fields: Any) -> str:
        """State something in the own feed; the id of the new object."""
        feed = self.feeds.setdefault(self.id, [])
        object_id, now = self.next_id(), int(time.time())
        body = fields if kind == "TaskSettle" else {"id": object_id, "created_at": now, **fields}
        envelope = self.seal(kind, {name: body}, len(feed) + 1, feed[-1]["meta"]["id"] if feed else "", now)
        feed.append(envelope)
        if not self.mute:
            self.send(jcs(envelope))
        return object_id

    def publish(self, **fields: Any) -> str:
        """Offer a task."""
        seed: dict[str, Any] = {
            "title": "from outside",
            "command": "echo hello",
            "timeout_ms": 5_000,
            "bid_deadline_ts": int(time.time()) + 600,
            "exec_deadline_ms": 60_000,
            "created_by": self.id,
        }
        return self.say("SeedCreated", "seed", **{**seed, **fields})

    # --- hearing ---------------------------------------------------------------------------------------

    def pump(self, what: str, done: Callable[[], Any], deadline_s: float = 60) -> Any:
        """Hear and answer until ``done`` gives something true; returns that."""
        deadline = time.monotonic() + deadline_s
        while True:
            found = done()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {deadline_s} s in vain: {what}")
            self.socket.settimeout(0.1)
            try:
                datagram = self.socket.recv(65_535)
            except TimeoutError:
                continue
            self.hear(datagram)

    def hear(self, datagram: bytes) -> None:
        """One datagram from the node."""
        if datagram[:5] == b"CRB2\x01":
            digest, count = datagram[5:37], int.from_bytes(datagram[39:41], "big")
            chunks = self.partial.setdefault(digest, {})
            chunks[int.from_bytes(datagram[37:39], "big")] = datagram[45:]
            if len(chunks) < count:
                return
            datagram = b"".join(chunks[index] for index in range(count))
        if datagram[:1] == b"{":
            self.take(verify(datagram))

    def take(self, envelope: dict[str, Any]) -> None:
        """One verified envelope."""
        self.heard.append(envelope)
        meta, payload = envelope["meta"], envelope["payload"]
        if meta["kind"] == "NodeHello" and payload["challenge"]:
            self.talk("NodeHello", {"identity": {"node_id": self.id}, "challenge": "", "echo": payload["challenge"]})
        elif meta["kind"] == "FeedRequest":
            for author, first, last in payload["wants"]:
                for held in self.feeds.get(author, [])[first - 1 : last]:
                    self.send(jcs(held))
            named = {envelope_id for _, envelope_id in payload.get("names", [])}
            for held in [each for feed in self.feeds.values() for each in feed if each["meta"]["id"] in named]:
                self.send(jcs(held))
        elif meta["kind"] == "FeedHeads":
            wants = [
                [author, len(self.feeds.get(author, [])) + 1, seq]
                for author, seq, *_ in payload["heads"]
                if seq > len(self.feeds.get(author, []))
            ]
            if wants:
                self.talk("FeedRequest", {"wants": wants})
        elif meta["kind"] not in TALK:
            feed = self.feeds.setdefault(meta["from"], [])
            if meta["seq"] == len(feed) + 1 and meta["prev"] == (feed[-1]["meta"]["id"] if feed else ""):
                feed.append(envelope)

    def found(self, kind: str, name: str, author: str, **fields: Any) -> dict[str, Any] | None:
        """The object of the author's first envelope of this kind whose object has these fields."""
        for envelope in self.feeds.get(author, []):
            if envelope["meta"]["kind"] == kind:
                body: dict[str, Any] = envelope["payload"][name]
                if fields.items() <= body.items():
                    return body
        return None
