"""Small data dirs with known content for the operator's tools, made by a real node without network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from crabnet.core.commands import Publish
from crabnet.domain.model import Seed, SeedStatus
from crabnet.node.node import Node
from crabnet.operator.audit import audit
from crabnet.operator.findings import AuditReport, LivePoint
from crabnet.settings import FlagValue, Settings, resolve
from crabnet.storage.files import RealFiles

START_MS = 1_767_225_600_000


class Clock:
    """Wall-clock time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms


def settings_of(data_dir: Path, **flags: FlagValue) -> Settings:
    """Settings of a node that talks to nobody."""
    quiet: dict[str, FlagValue] = {
        "data_dir": str(data_dir),
        "listen_addr": "127.0.0.1:0",
        "announce_addrs": [],
        **flags,
    }
    return resolve(quiet, {}, None).settings


def work(
    data_dir: Path, job: Callable[[Node], Awaitable[None]], clock: Clock | None = None, **flags: FlagValue
) -> None:
    """Open a node on ``data_dir``, do a job, close it."""

    async def once() -> None:
        async with Node(settings_of(data_dir, **flags), listen=False, clock_ms=clock or Clock()) as node:
            await job(node)

    trio.run(once)


async def publish(node: Node, title: str = "t") -> Seed:
    """Offer a small task."""
    return await node.publish(Publish(title=title, command="echo hi", bid_window_ms=600_000, timeout_ms=5_000))


async def whole_job(node: Node, title: str = "t") -> str:
    """Publish, bid, claim, run and settle a task all alone; returns its id."""
    seed = await publish(node, title)
    bid = await node.bid(seed.id, 3)
    await node.claim(seed.id, bid.id)
    await node.run(seed.id)
    await node.settle(seed.id, SeedStatus.ACCEPTED)
    return seed.id


def verify(data_dir: Path, start: str = "genesis", live: LivePoint | None = None) -> AuditReport:
    """What `crabnet audit verify` finds."""
    return audit(RealFiles(), data_dir, namespace="default", ask_node=lambda: live, start=start)


def ledger_files(data_dir: Path) -> list[Path]:
    """Everything that the ledger keeps and an audit must vouch for."""
    places = [data_dir / "state.json", data_dir / "state.json.bak", data_dir / "sealed"]
    places += [path for name in ("journal", "history") for path in sorted((data_dir / name).glob("*.log"))]
    return [path for path in places if path.exists()]
