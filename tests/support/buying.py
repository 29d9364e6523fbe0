"""A program that buys with the Python API: ``python -m tests.support.buying DATA_DIR LISTEN_ADDR AT_ONCE``.

It reads a JSON array of commands from standard input, buys a run of each of them, and writes a JSON array of ``Bought``
in the same order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

import crabnet


class Bought(Struct, frozen=True):
    """What a purchase has brought."""

    seed_id: str
    exit_code: int
    stdout: bytes
    stderr: bytes


def wish(command: str) -> crabnet.Publish:
    """A task of some seconds at most, that any worker may run."""
    return crabnet.Publish(title="t", command=command, timeout_ms=10_000, exec_deadline_ms=70_000)


async def _buy(settings: crabnet.Settings, commands: list[str], at_once: int) -> list[Bought]:
    bought: dict[int, Bought] = {}
    terms = crabnet.Terms(award=crabnet.AwardRule.FIRST, tries_max=10)
    waiting = iter(enumerate(commands))

    async def buy_some(node: crabnet.Node) -> None:
        for number, command in waiting:
            result = await node.buy(wish(command), max_price=9, terms=terms)
            bought[number] = Bought(result.seed_id, result.exit_code, result.raw_stdout, result.raw_stderr)

    async with crabnet.Node(settings) as node, trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(buy_some, node)
    return [bought[number] for number in range(len(commands))]


if __name__ == "__main__":
    _commands = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    _settings = crabnet.Settings(
        data_dir=Path(sys.argv[1]), listen_addr=sys.argv[2], announce_addrs=(), web_addr="off", sync_interval_ms=200
    )
    sys.stdout.buffer.write(msgspec.json.encode(trio.run(_buy, _settings, _commands, int(sys.argv[3]))))
