"""What others send makes a node write at most eight times as many bytes, whatever they say and whoever helps them.

The bytes of all that is said are counted, also those that only prepare for an attack; of what is written, journal,
archive, index and one checkpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from crabnet.core.commands import Received
from crabnet.core.effects import Effects
from crabnet.domain.model import SeedStatus
from crabnet.node.node import Node
from crabnet.protocol.envelope import Envelope, Kind
from tests.operator.support import Clock, settings_of
from tests.support.envelopes import NOW_S, Author

FACTOR_MAX = 8
SOURCE = "192.0.2.1:9012"
DAY_MS = 24 * 3_600_000
FAT = "x" * 30_000
AT_REST: dict[str, int] = {"claim_deadline_ts": 1, "bid_deadline_ts": 2**40}
"""Terms of a seed that is at rest from the beginning, and can be bid on for ever."""


class Victim:
    """A node without a network and without budgets, what it was told, and what it has written."""

    def __init__(self, node: Node, clock: Clock) -> None:
        self.node = node
        self.clock = clock
        self.heard = 0

    async def tell(self, *envelopes: Envelope) -> None:
        """Envelopes come, one by one; each is durable and has had all its consequences before the next."""
        for envelope in envelopes:
            self.heard += len(envelope.raw)
            effects = Effects()
            self.node.core.handle(Received(SOURCE, envelope.raw), self.clock.now_ms, effects)
            while self.node.core.replica.settling:
                self.node.core.rest(self.clock.now_ms, effects)
            await self.node.committer.submit(effects)

    async def wait(self, ms: int = 2_000) -> None:
        """Time passes, and what is at rest for long enough goes to the archive."""
        self.clock.now_ms += ms
        while await self.node.archivist.archive_due():
            pass

    async def written(self) -> int:
        """Bytes in all files that hold what was said."""
        journal = self.node.ledger.replay_bytes
        await trio.to_thread.run_sync(self.node.history.flush)
        await self.node.checkpointer.make()
        data_dir = self.node.settings.data_dir
        files = [data_dir / "state.json", *data_dir.glob("*.sqlite*"), *(data_dir / "archive").rglob("*")]
        return journal + sum(path.stat().st_size for path in files if path.is_file())


Attack = Callable[[Victim], Awaitable[None]]


def other(author: Author, at: Envelope) -> Envelope:
    """An envelope of a later version for a place that its author has used."""
    return author.twin().rewind(at).say(Kind.UNKNOWN, {})


async def late_bids(victim: Victim) -> None:
    """On a fat seed that comes back from the archive for each."""
    seed = Author("creator").publish(NOW_S, description=FAT, rules=FAT, **AT_REST)
    await victim.tell(seed)
    for number in range(40):
        await victim.wait()
        await victim.tell(Author(f"bidder {number}").bid(seed))


async def disputes_of_an_archived_seed(victim: Victim) -> None:
    """A dispute begins and ends with each accomplice, about a seed with many bids that goes to the archive between."""
    creator = Author("creator")
    seed = creator.publish(NOW_S, **AT_REST)
    rival = creator.twin().rewind(seed).publish(NOW_S, title="other", **AT_REST)
    bids = [Author(f"bidder {number}").bid(seed, notes="n" * 4_000) for number in range(30)]
    await victim.tell(seed, *bids, rival)
    for number in range(40):
        accomplice = Author(f"accomplice {number}")
        bid = accomplice.bid(rival)
        await victim.tell(bid)
        if number == 0:
            await victim.tell(rival)
        await victim.wait()
        await victim.tell(other(accomplice, bid))
        await victim.wait()


async def a_definition_that_comes_and_goes(victim: Victim) -> None:
    """A fat seed behind the end of its creator's feed, bid on by accomplices each of whom takes its bid back."""
    creator = Author("creator")
    seed = creator.publish(description=FAT, rules=FAT)
    await victim.tell(seed, other(creator, seed))
    for number in range(40):
        accomplice = Author(f"accomplice {number}")
        bid = accomplice.bid(seed)
        await victim.tell(bid)
        if number == 0:
            await victim.tell(seed)
        await victim.tell(other(accomplice, bid))


async def _claims_that_come_and_go(victim: Victim, attempt: int, results: int) -> None:
    """Behind the end of its feed the creator claims the bids of accomplices, each of whom takes its start back."""
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    start = worker.start(claim)
    work = [worker.finish(start, stdout=FAT * 3, exit_code=number) for number in range(results)]
    await victim.tell(seed, bid, claim, start, *work)
    if attempt == 1:
        creator.rewind(claim)
    last = creator.say(Kind.UNKNOWN, {})
    await victim.tell(last, other(creator, last))
    for number in range(40):
        accomplice, branch = Author(f"accomplice {number}"), creator.twin()
        branch.nonce += 1_000 * number
        bid = accomplice.bid(seed)
        claim = branch.claim(bid, attempt=attempt)
        start = accomplice.start(claim)
        await victim.tell(bid, start, claim)
        await victim.tell(other(accomplice, start))


async def a_dispute_about_results(victim: Victim) -> None:
    """Two claims of one attempt, of one of which there are many results: in dispute all of them have a say."""
    await _claims_that_come_and_go(victim, attempt=1, results=10)


async def a_claim_of_a_later_attempt(victim: Victim) -> None:
    """While it stands, the fat result of the claim before does not count."""
    await _claims_that_come_and_go(victim, attempt=2, results=1)


ATTACKS: list[Attack] = [
    late_bids,
    disputes_of_an_archived_seed,
    a_definition_that_comes_and_goes,
    a_dispute_about_results,
    a_claim_of_a_later_attempt,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.__name__)
async def test_what_is_written_for_what_is_said(attack: Attack, tmp_path: Path) -> None:
    clock = Clock()
    budgets = {"author_envelopes_per_sec": 0, "author_bytes_per_sec": 0}
    budgets |= {"newcomer_envelopes_per_sec": 0, "newcomer_bytes_per_sec": 0}
    async with Node(settings_of(tmp_path, **budgets), listen=False, clock_ms=clock) as node:
        victim = Victim(node, clock)
        await attack(victim)
        written = await victim.written()
    assert written <= FACTOR_MAX * victim.heard, f"{written / victim.heard:.1f} times"


async def test_a_seed_that_came_back_leaves_memory_again_when_it_has_rested_as_long(tmp_path: Path) -> None:
    clock = Clock()
    async with Node(settings_of(tmp_path), listen=False, clock_ms=clock) as node:
        victim, records = Victim(node, clock), node.core.replica.state.records
        creator, rival = Author("creator"), Author("rival")
        seed = creator.publish(claim_deadline_ts=NOW_S)
        twin = creator.twin().rewind(seed).publish(title="other")
        bid = rival.bid(twin)
        await victim.tell(seed, Author("worker").bid(seed), twin, bid, twin)
        assert [record.progress.status for record in records.values()] == [SeedStatus.DISPUTED]
        await victim.wait(30 * DAY_MS)
        assert not records

        await victim.tell(rival.rewind(bid).say(Kind.UNKNOWN, {}, clock.now_ms // 1000))
        assert [record.progress.status for record in records.values()] == [SeedStatus.OPEN]
        await victim.wait(29 * DAY_MS)
        assert records
        await victim.wait(2 * DAY_MS)
        assert not records
