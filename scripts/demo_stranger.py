"""How the stranger of ``make demo`` sends: by datagrams, or as a peer of the libp2p network."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import msgspec
import trio

from crabnet.node.children.handshake import Ready
from crabnet.node.children.process import Process
from crabnet.node.children.spec import ChildSpec
from crabnet.protocol.topics import Channel, topic_of
from crabnet.transport.dht import DhtTransport
from crabnet.transport.p2p_wire import Connected, Given

DEADLINE_S = 30
STOP_MS = 2_000


def send_datagrams(message: bytes, addresses: Iterable[str]) -> None:
    """Send one message to each address, ``host:port``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for address in addresses:
            host, _, port = address.rpartition(":")
            sock.sendto(message, (host, int(port)))


def publish(message: bytes, seed: bytes, multiaddrs: list[str], channel: Channel) -> None:
    """Join the libp2p network of these nodes with the key ``seed``, and publish one message on a topic.

    Raises OSError, also if the network cannot be joined within DEADLINE_S seconds.
    """
    topic = topic_of(channel.value, "default")
    given = Given(
        seed=seed, namespace="default", listen=[], bootstrap=multiaddrs, publish=[topic], subscribe=[topic],
        rendezvous="off", mdns=False, relay="off",
    )  # fmt: skip

    async def join() -> None:
        process = Process(ChildSpec("stranger", "crabnet.p2p.main:serve", given=msgspec.msgpack.encode(given)))
        try:
            outcome = await process.handshake()
            if not isinstance(outcome, Ready):
                raise OSError(outcome.detail)
            await _publish(DhtTransport(process.stream), message, topic, len(multiaddrs))
        finally:
            await process.end(STOP_MS)

    trio.run(join)


async def _publish(transport: DhtTransport, message: bytes, topic: str, peers: int) -> None:
    met = trio.Event()

    async def receive() -> None:
        known: set[str] = set()
        while True:
            known |= {each.peer for each in await transport.receive() if isinstance(each, Connected)}
            if len(known) >= peers:
                met.set()

    with trio.move_on_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await met.wait()
            while not (await transport.publish(message, [topic])).peers:  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.1)  # the subscriptions of the peers are on their way
            nursery.cancel_scope.cancel()
        return
    raise OSError("the stranger met no node")
