"""Looks around in the network for a while, and says what a worker with these settings would do."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace

import trio

from crabnet import limits
from crabnet.node.descriptors import take_descriptors
from crabnet.node.ending import Asked, until_signal
from crabnet.node.node import Node
from crabnet.node.operations.oneshot import Refusals
from crabnet.node.operations.performing import as_json
from crabnet.node.operations.work import offers
from crabnet.operations.work import OffersRequest
from crabnet.protocol.canonical import JsonValue
from crabnet.settings import Settings


def offers_around(
    settings: Settings, wait_ms: int, warn: Callable[[str], None], show: Callable[[JsonValue], None]
) -> None:
    """Pass the pages of ``work.offers`` to ``show``, as a node gives them that has listened for at most ``wait_ms``.

    It bids for nothing and runs nothing. It begins once it has heard of everything that its neighbours hold.
    Raises what entering a Node raises, and KeyboardInterrupt.
    """
    take_descriptors()

    async def look(asked: Asked) -> None:
        quiet = replace(settings, auto_bid=False, auto_run=False)
        async with Node(quiet, told=Refusals(warn)) as node, trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, asked.to_end, nursery.cancel_scope)
            with trio.move_on_after(wait_ms / 1000) as scope:
                await _until_quiet(node)
            if scope.cancelled_caught and not node.core.neighbours.around():
                warn("crabnet: no other node has answered; name one with --join HOST:PORT")
            after: str | None = None
            while True:
                page = await offers(node, OffersRequest(after=after))
                show(as_json(page))
                after = page.next
                if after is None:
                    break
            nursery.cancel_scope.cancel()

    came = trio.run(until_signal, look)
    if came is not None:
        signal.raise_signal(came)
        raise KeyboardInterrupt  # for a signal that the embedding program ignores or handles


async def _until_quiet(node: Node) -> None:
    """Wait until a peer has said what it holds, nothing is missing, and nothing comes for LOOK_AROUND_QUIET_MS."""
    while True:
        held = _held(node)
        await trio.sleep(limits.LOOK_AROUND_QUIET_MS / 1000)
        behind = node.gauges().sync
        told = any(neighbour.feeds_ahead is not None for neighbour in behind.neighbours)
        if told and not behind.envelopes_missing and not behind.parked and held == _held(node):
            return


def _held(node: Node) -> int:
    return sum(head[0] for head in node.core.replica.feeds.heads().values())


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
