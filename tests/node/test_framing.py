"""Effects that are too large for one frame of the journal: several frames, one commit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from crabnet import limits
from crabnet.core.commands import Received
from crabnet.core.effects import Effects, Serve
from crabnet.core.replica.records import Via
from crabnet.errors import Reason, StorageFailedError
from crabnet.node.durable.committer import Committer
from crabnet.node.durable.framing import Durable, Framing
from crabnet.node.node import Node
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Envelope, Kind
from crabnet.storage.files import RealFiles
from crabnet.storage.journal.segment import FramePosition
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.faults.seam import Fault, FaultyFiles
from tests.operator.support import settings_of
from tests.support.envelopes import NOW_S, Author

DEADLINE_S = 60
NOW_MS = NOW_S * 1000
SOURCE = "192.0.2.1:9012"


# --- how effects are divided ---------------------------------------------------------------------------------


def effects_of(*sizes: int) -> Effects:
    return Effects(records=[bytes(size) for size in sizes])


def framed(frame_bytes: int, *given: Effects) -> list[tuple[list[int], list[int]]]:
    """(Sizes of the records, numbers of the effects that are whole with it) of each frame."""
    framing: Framing[int] = Framing(frame_bytes)
    for number, effects in enumerate(given):
        framing.put(effects, number)
    frames = []
    lsn = 0
    while framing:
        batch = framing.take()
        lsn += 1
        batch.written(FramePosition(lsn, 1, 0, 1))
        frames.append((list(map(len, batch.records)), [tag for _, tag in batch.whole]))
    return frames


@pytest.mark.parametrize(
    ("given", "frames"),
    [
        ([effects_of(4, 4)], [([4, 4], [0])]),
        ([effects_of(4, 5)], [([4], []), ([5], [0])]),
        ([effects_of(9)], [([9], [0])]),
        ([effects_of(30)], [([30], [0])]),
        ([effects_of(30, 1)], [([30], []), ([1], [0])]),
        ([effects_of()], [([], [0])]),
        ([effects_of(), effects_of(30)], [([30], [0, 1])]),
        ([effects_of(1), effects_of(4, 4), effects_of(1)], [([1], [0]), ([4, 4], [1]), ([1], [2])]),
        ([effects_of(1), effects_of(4, 4, 4), effects_of(3)], [([1], [0]), ([4, 4], []), ([4, 3], [1, 2])]),
        ([effects_of(8, 8), effects_of()], [([8], []), ([8], [0, 1])]),
    ],
)
def test_effects_become_frames(given: list[Effects], frames: list[tuple[list[int], list[int]]]) -> None:
    assert framed(10, *given) == frames


def test_effects_that_are_to_be_alone_share_no_frame() -> None:
    def alone(*sizes: int) -> Effects:
        return Effects(records=[bytes(size) for size in sizes], alone=True)

    given = [effects_of(1), alone(2), alone(3, 3, 3, 3), effects_of(1), effects_of(1)]
    assert framed(10, *given) == [([1], [0]), ([2], [1]), ([3, 3], []), ([3, 3], [2]), ([1, 1], [3, 4])]


def test_every_record_is_found_where_it_lies() -> None:
    framing: Framing[None] = Framing(10)
    given = [effects_of(1, 2), effects_of(3, 4, 5, 6), effects_of(1, 1)]
    for effects in given:
        framing.put(effects, None)
    whole: list[Durable] = []
    frames: dict[FramePosition, list[bytes]] = {}
    while framing:
        batch = framing.take()
        position = FramePosition(len(frames) + 1, 1, 0, 1)
        batch.written(position)
        frames[position] = batch.records
        whole += [durable for durable, _ in batch.whole]
    assert len(frames) > 3
    for durable in whole:
        for number, record in enumerate(durable.effects.records):
            position, record_no = durable.place(number)
            assert frames[position][record_no] is record


def test_what_waits_is_bounded_in_records_and_in_bytes() -> None:
    framing: Framing[None] = Framing()
    full = []
    for effects in (effects_of(*[1] * (limits.COMMIT_RECORDS_MAX - 1)), effects_of(limits.COMMIT_BYTES_MAX)):
        framing.put(effects, None)
        full.append(framing.full)
    for _ in range(2):
        framing.take()
        full.append(framing.full)
    assert full == [False, True, True, False]


# --- the committer -------------------------------------------------------------------------------------------


def records_of(count: int, size: int) -> list[bytes]:
    """Records as large as they may be, or smaller, that differ."""
    return [b'"%03d' % number + b"x" * (size - 5) + b'"' for number in range(count)]


class Bench:
    """A committer over a real ledger, and what it released."""

    def __init__(self, path: Path, files: RealFiles | FaultyFiles | None = None) -> None:
        self.ledger = Ledger.open(path, files=files or RealFiles(), now_ms=NOW_MS, role=LockRole.NODE)
        self.released: list[Durable] = []
        self.lsn_at_release = 0
        self.committer = Committer(self.ledger, self.release)

    def release(self, durables: list[Durable]) -> None:
        self.released += durables
        self.lsn_at_release = self.ledger.last_lsn

    def stored(self) -> list[bytes]:
        """The payloads of all frames."""
        return [frame.payload for frame in self.ledger.frames_after(0)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.ledger.close()


@pytest.mark.parametrize(
    ("count", "size", "frames"),
    [
        (1, limits.RECORD_BYTES_MAX, 1),
        (2, limits.RECORD_BYTES_MAX, 2),
        (4, limits.FRAME_BYTES_TARGET // 4 - 1, 1),
        (4, limits.FRAME_BYTES_TARGET // 4, 2),
        (9, limits.FRAME_BYTES_TARGET // 4 - 1, 3),
    ],
)
async def test_one_commit_of_several_frames(bench: Bench, count: int, size: int, frames: int) -> None:
    effects = Effects(records=records_of(count, size))
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.committer.run)
            await bench.committer.submit(effects)
            assert [durable.effects for durable in bench.released] == [effects]
            assert bench.lsn_at_release == bench.ledger.last_lsn == frames
            await bench.committer.close()
    [durable] = bench.released
    for number, record in enumerate(effects.records):
        position, record_no = durable.place(number)
        assert bench.ledger.read_frame(position)[1:-1].split(b",")[record_no] == record


async def test_a_boundary_waits_for_the_last_frame(bench: Bench) -> None:
    """What ``at_boundary`` sees in memory is in the journal at ``at_synced``, also when it takes several frames."""
    seen: list[int] = []
    with trio.fail_after(DEADLINE_S):
        bench.committer.enqueue(Effects(records=records_of(3, limits.FRAME_BYTES_TARGET - 1)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                bench.committer.boundary,
                lambda: seen.append(bench.ledger.last_lsn),
                lambda: seen.append(bench.ledger.last_lsn),
            )
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(bench.committer.run)
            await bench.committer.submit(Effects())
            await bench.committer.close()
    assert seen == [2, 3]


async def test_a_failure_at_the_second_frame_releases_nothing(tmp_path: Path) -> None:
    """Those who wait are told; a restart finds the first frame, which nobody was told of."""
    files = FaultyFiles()
    bench = Bench(tmp_path, files)
    failures: list[StorageFailedError] = []

    async def submit(effects: Effects) -> None:
        try:
            await bench.committer.submit(effects)
        except StorageFailedError as error:
            failures.append(error)

    with trio.fail_after(DEADLINE_S):
        with pytest.raises(StorageFailedError):  # noqa: PT012
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(submit, Effects(records=records_of(3, limits.RECORD_BYTES_MAX)))
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(submit, Effects(records=[b"1"]))
                    await trio.testing.wait_all_tasks_blocked()
                    syncs = count()
                    files.arm_when(lambda name, _: name == "fdatasync" and next(syncs) == 1, Fault.EIO)
                    nursery.start_soon(bench.committer.run)
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from group
    assert bench.released == []
    assert [failure.reason for failure in failures] == [Reason.STORAGE_FAILED] * 2
    bench.ledger.close()
    again = Bench(tmp_path)
    assert len(again.stored()) in {1, 2}
    assert again.stored()[0] == b"[" + records_of(1, limits.RECORD_BYTES_MAX)[0] + b"]"
    again.ledger.close()


# --- the node ------------------------------------------------------------------------------------------------

FAT = "\U0001f600" * 60_000
"""Text of 240 kB."""


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def open_node(data_dir: Path, clock: Clock) -> Node:
    return Node(settings_of(data_dir, archive_after_s=1), listen=False, clock_ms=clock)


def fat_seeds(author: Author, number: int) -> list[Envelope]:
    """Envelopes of 480 kB, one after the other in the author's feed."""
    return [
        author.say(Kind.SEED_CREATED, {"seed": author.seed(description=FAT, rules=FAT, title=str(each))})
        for each in range(number)
    ]


async def tell_at_once(node: Node, clock: Clock, envelopes: list[Envelope]) -> Effects:
    """What a slice of datagrams does: one ``Effects`` for all."""
    effects = Effects()
    for envelope in envelopes:
        node.core.handle(Received(SOURCE, envelope.raw, Via.IMPORT), clock.now_ms, effects)
    await node.committer.submit(effects)
    return effects


async def held_by_a_restart(data_dir: Path, clock: Clock, state_hash: str) -> None:
    async with open_node(data_dir, clock) as node:
        assert await node.state_hash() == state_hash
    (data_dir / "state.json").unlink()
    (data_dir / "state.json.bak").unlink(missing_ok=True)
    async with open_node(data_dir, clock) as node:
        assert await node.state_hash() == state_hash


async def test_what_was_parked_is_applied_at_once_and_found_again(tmp_path: Path) -> None:
    clock = Clock()
    authors = [Author(name) for name in ("alice", "bob", "carol")]
    feeds = [fat_seeds(author, 8) for author in authors]
    with trio.fail_after(DEADLINE_S):
        async with open_node(tmp_path, clock) as node:
            await tell_at_once(node, clock, [envelope for feed in feeds for envelope in feed[1:]])
            assert not node.core.replica.state.records
            effects = await tell_at_once(node, clock, [feed[0] for feed in feeds])
            assert sum(map(len, effects.records)) > limits.FRAME_BYTES_MAX
            state_hash = await node.state_hash()
            for author, feed in zip(authors, feeds, strict=True):
                for seq, envelope in enumerate(feed, 1):
                    [served] = node.history.read([Serve(author.id, seq, seq, SOURCE)])
                    assert [each[:3] for each in served] == [(seq, envelope.meta.id, envelope.raw)]
        await held_by_a_restart(tmp_path, clock, state_hash)


async def test_many_large_seeds_come_back_from_the_archive_at_once(tmp_path: Path) -> None:
    clock = Clock()
    creator, worker = Author("creator"), Author("worker")
    with trio.fail_after(DEADLINE_S):
        async with open_node(tmp_path, clock) as node:
            seeds = fat_seeds(creator, 20)
            for envelope in seeds:
                await tell_at_once(node, clock, [envelope])
            ids = list(node.core.replica.state.records)
            clock.now_ms += 2 * limits.CLAIM_WINDOW_S_DEFAULT * 1000
            assert await node.archivist.archive_due()
            assert not node.core.replica.state.records
            late = []
            for seed_id, seed in zip(ids, seeds, strict=True):
                bid: JsonObject = {"id": worker.next_object_id(), "seed_id": seed_id, "rests_on": seed.meta.id}
                bid |= {"bidder": worker.id, "price": 5, "created_at": NOW_S}
                late.append(worker.say(Kind.BID_SUBMITTED, {"bid": bid}))
            effects = await tell_at_once(node, clock, late)
            assert len(node.core.replica.state.records) == len(ids)
            assert sum(map(len, effects.records)) > limits.FRAME_BYTES_MAX
            state_hash = await node.state_hash()
        await held_by_a_restart(tmp_path, clock, state_hash)


async def test_what_is_erased_may_be_more_than_a_row_of_a_checkpoint_takes(tmp_path: Path) -> None:
    clock = Clock()
    ids = {f"{number:07}" + "\x01" * 120 for number in range(12_000)}
    with trio.fail_after(DEADLINE_S):
        async with open_node(tmp_path, clock) as node:
            node.core.replica.state.erased.update(ids)
            await node.checkpointer.make()
        async with open_node(tmp_path, clock) as node:
            assert node.core.replica.state.erased == ids


@pytest.mark.parametrize("created_at", [2**63 - 1, 2**63, limits.LEGACY_INTEGER_MAX])
async def test_an_unsigned_seed_of_any_time_does_not_stop_the_archive(created_at: int, tmp_path: Path) -> None:
    clock = Clock()
    settings = settings_of(tmp_path, archive_after_s=1, require_signatures=False)
    seed = {**Author("nobody").seed(), "id": "s", "created_by": "baseline", "created_at": created_at}
    meta: JsonObject = {"id": "e", "from": "baseline", "kind": "SeedCreated", "ts": NOW_S, "nonce": 1, "signature": ""}
    raw = msgspec.json.encode({"meta": meta, "payload": {"seed": seed}})
    with trio.fail_after(DEADLINE_S):
        async with Node(settings, listen=False, clock_ms=clock) as node:
            effects = Effects()
            node.core.handle(Received(SOURCE, raw), clock.now_ms, effects)
            await node.committer.submit(effects)
            assert list(node.core.replica.state.records) == ["s"]
            clock.now_ms += 2 * limits.CLAIM_WINDOW_S_DEFAULT * 1000
            assert await node.archivist.archive_due()
            assert not await node.archivist.archive_due()
            assert node.core.record("s").definition is not None
