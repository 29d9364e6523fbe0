"""Floods a node with datagrams: a process of its own, so that it does not slow down who measures.

``python -m tests.flood.generator KIND HOST PORT SECONDS RATE`` sends ``RATE`` datagrams a second, or as many as it can,
and prints ``{"sent": n, "seconds": s}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count, cycle

from crabnet.protocol import sync
from crabnet.protocol.envelope import Kind, seal
from crabnet.protocol.fragment_wire import fragment_datagram, split
from crabnet.protocol.identity import Signer
from tests.support.envelopes import Author, edit

SOURCES = 1_000
BATCH_S = 0.005
NOISE = random.Random(1)
Sender = Callable[[], None]


def _socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


def hostile_datagrams() -> list[bytes]:
    """Junk of every price: noise, broken JSON, forged signatures, wrong ids, fragments of nothing."""
    now_s = int(time.time())
    made: list[bytes] = []
    for number in range(100):
        author = Author(f"forger {number} {os.getpid()}")
        sound = author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s)}, now_s).raw
        made += [
            edit(sound, "meta.signature", "A" * 86),
            edit(sound, "payload.seed.title", "other"),
            sound[:-1],
            NOISE.randbytes(200),
            b"{" + NOISE.randbytes(400),
            b'{"a":[' + b"[]," * 300 + b"[]]}",
            b"CRB2\x01" + NOISE.randbytes(500),
            b"CRB2\x02" + NOISE.randbytes(40),
        ]
    NOISE.shuffle(made)
    return made


def one_source(target: tuple[str, int]) -> Sender:
    """Junk from one address."""
    sock, junk = _socket("127.66.0.1"), cycle(hostile_datagrams())
    return lambda: _send(sock, next(junk), target)


def many_sources(target: tuple[str, int]) -> Sender:
    """Junk from a thousand addresses in turn."""
    sockets = cycle([_socket(f"127.77.{number // 250}.{1 + number % 250}") for number in range(SOURCES)])
    junk = cycle(hostile_datagrams())
    return lambda: _send(next(sockets), next(junk), target)


def costly_datagrams(target: tuple[str, int]) -> Sender:
    """The largest datagrams, full of what takes longest to read before a signature is looked at."""
    sockets = cycle([_socket(f"127.78.{number // 250}.{1 + number % 250}") for number in range(SOURCES)])
    author = Author(f"forger {os.getpid()}")
    now_s = int(time.time())
    sound = author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s)}, now_s).raw
    fillings = [b'"\xee\x80\x80":0,"x":[' + b"1," * 31_000 + b"1],", b'"x":[' + b"{}," * 20_000 + b"{}],"]
    junk = cycle([sound.replace(b'"seed":{', b'"seed":{' + filling) for filling in fillings])
    return lambda: _send(next(sockets), next(junk), target)


def fragment_bombs(target: tuple[str, int]) -> Sender:
    """First fragments of large messages that never become whole, from many addresses, each of a new message."""
    sockets = cycle([_socket(f"127.88.{number // 250}.{1 + number % 250}") for number in range(SOURCES)])
    message = b"{" + b"a" * (1024 * 1024 - 2) + b"}"
    numbers = count()

    def send() -> None:
        digest = hashlib.sha256(b"%d" % next(numbers)).digest()
        _send(next(sockets), fragment_datagram(message, digest, NOISE.randrange(900)), target)

    return send


def signed_flooder(target: tuple[str, int]) -> Sender:
    """One author with a sound key, from an address that it proves, whose seeds are all in order."""
    sock = _socket("127.99.0.1")
    author = Author(f"flooder {os.getpid()}")
    return lambda: _say(sock, author, target)


def fresh_identities(target: tuple[str, int]) -> Sender:
    """Every envelope is the first of a new author, from a few addresses that are proved."""
    sockets = cycle([_socket(f"127.99.1.{number}") for number in range(1, 9)])
    numbers = count()
    return lambda: _say(next(sockets), Author(f"fresh {os.getpid()} {next(numbers)}"), target)


def _say(sock: socket.socket, author: Author, target: tuple[str, int]) -> None:
    now_s = int(time.time())
    envelope = author.say(Kind.SEED_CREATED, {"seed": author.seed(now_s, description="x" * 200)}, now_s)
    for datagram in split(envelope.raw):
        _send(sock, datagram, target)
    if NOISE.randrange(50) == 0:
        _prove(sock, author.signer, target)


def _prove(sock: socket.socket, signer: Signer, target: tuple[str, int]) -> None:
    """Answer the challenges that came."""
    with suppress(BlockingIOError):
        while True:
            heard = sock.recv(65_536)
            challenge = json.loads(heard)["payload"].get("challenge") if heard.startswith(b"{") else ""
            if challenge:
                hello = sync.Hello(sync.NodeIdentity(signer.node_id), echo=challenge)
                kind, payload = sync.payload_of(hello)
                nonce = NOISE.getrandbits(53)
                said = seal(signer, kind=kind, namespace="default", ts=int(time.time()), nonce=nonce, payload=payload)
                _send(sock, said.raw, target)


def _send(sock: socket.socket, datagram: bytes, target: tuple[str, int]) -> None:
    with suppress(BlockingIOError):
        sock.sendto(datagram, target)


KINDS: dict[str, Callable[[tuple[str, int]], Sender]] = {
    "one_source": one_source,
    "many_sources": many_sources,
    "costly_datagrams": costly_datagrams,
    "fragment_bombs": fragment_bombs,
    "signed_flooder": signed_flooder,
    "fresh_identities": fresh_identities,
}


def main() -> None:
    """See the module."""
    kind, host, port, seconds, rate = sys.argv[1:]
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files_max, 4_096), files_max))
    send = KINDS[kind]((host, int(port)))
    sent, began = 0, time.monotonic()
    end = began + float(seconds)
    while (now := time.monotonic()) < end:
        due = int((now - began) * int(rate))
        for _ in range(min(due - sent, int(rate))):
            send()
            sent += 1
        time.sleep(BATCH_S)
    print(json.dumps({"sent": sent, "seconds": round(time.monotonic() - began, 2)}))


if __name__ == "__main__":
    main()
