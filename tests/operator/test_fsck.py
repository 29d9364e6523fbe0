"""`crabnet fsck`: what it shows, and that after --repair a node starts with everything that can be proved."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from msgspec import Raw, structs

from crabnet.core.replica.records import EnvelopeRecord, decode_frame, encode_record, frame_of
from crabnet.domain.model import Progress
from crabnet.errors import DataDirDamagedError, Reason, RefusedError
from crabnet.limits import CHECKPOINT_ROW_BYTES_MAX
from crabnet.monitor.reader import read_events
from crabnet.node.node import Node
from crabnet.node.operations.importing import import_entries
from crabnet.operator.repair import apply_pending
from crabnet.protocol.canonical import JsonObject
from crabnet.protocol.envelope import Kind
from crabnet.storage.journal.segment import HEADER_BYTES
from crabnet.storage.ledger import Ledger
from crabnet.storage.lock import LockRole
from tests.operator.fsckable import (
    FILES,
    Made,
    broken_in_the_middle,
    copy_of,
    flip,
    looked_at,
    own_job,
    repaired,
    seeds_of,
    segments,
)
from tests.operator.support import START_MS, Clock, publish, settings_of, verify, work
from tests.support.envelopes import NOW_S, Author, seed_id_of
from tests.support.nodes import NodeProcess, crabnet, quiet


def test_a_healthy_data_dir_is_called_so_and_left_alone(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "lock"}
    report = looked_at(data_dir).report
    assert report.healthy
    assert (report.opens, report.damages, report.obstacle, report.repair) == (True, [], "", "")
    assert report.seeds_kept == len(made.seeds)
    assert {path: path.read_bytes() for path in before} == before


def test_damage_that_a_checkpoint_covers_is_shown_but_no_obstacle(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    flip(segments(data_dir)[0], HEADER_BYTES + 300)
    report = looked_at(data_dir).report
    assert (report.opens, report.healthy, report.repair) == (True, False, "")
    assert str(segments(data_dir)[0]) in report.damages[0]
    assert seeds_of(data_dir) == made.seeds


def test_what_is_behind_the_damage_and_proved_by_signature_comes_back(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    path = broken_in_the_middle(data_dir)
    with pytest.raises(DataDirDamagedError):
        seeds_of(data_dir)
    report = looked_at(data_dir).report
    assert not report.opens
    assert report.kept_lsn == 2
    assert report.lost == [(3, 3)]
    assert len(report.envelopes_broken) == 1
    assert report.envelopes_behind == 12
    totals = repaired(data_dir)
    # Of the second stranger's two envelopes the first is gone: the second has nothing to follow.
    assert (totals.entries, totals.accepted, totals.ignored) == (12, 11, {"gap": 1})
    after = seeds_of(data_dir, accept_feed_risk=True)
    lost = set(made.seeds) - set(after)
    assert {key: status for key, status in made.seeds.items() if key not in lost} == after
    assert len(lost) == 2
    kept_aside = {each.read_bytes() for each in (data_dir / "damaged").glob("*.log*")}
    assert any(path.name in each.name for each in (data_dir / "damaged").iterdir())
    assert kept_aside
    assert verify(data_dir).ok
    assert looked_at(data_dir).report.healthy


def test_envelopes_that_wait_come_back_once_the_missing_one_has_come(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    missing = json.loads(bytes(frame_payload(segments(data_dir)[1])))[0][1]
    broken_in_the_middle(data_dir)
    repaired(data_dir)

    async def peer_sends(node: Node) -> None:
        await import_entries(node, [json.dumps(missing, separators=(",", ":"), ensure_ascii=False).encode()], [])

    work(data_dir, peer_sends)
    settings = settings_of(data_dir)
    totals = apply_pending(FILES, settings, looked_at(data_dir).pending)
    assert totals.accepted == 1
    assert seeds_of(data_dir, accept_feed_risk=True) == made.seeds
    assert not looked_at(data_dir).pending


def frame_payload(segment: Path) -> bytes:
    line = segment.read_bytes()[HEADER_BYTES:].split(b"\n")[0]
    return line[100:]


def test_whole_envelopes_in_a_damaged_frame_are_saved(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    authors = [Author(f"one frame {number}") for number in range(3)]
    raws = [author.say(Kind.SEED_CREATED, {"seed": author.seed()}).raw for author in authors]

    async def one_frame(node: Node) -> None:
        await import_entries(node, raws, [])

    work(data_dir, one_frame)
    (data_dir / "state.json").unlink()
    (data_dir / "state.json.bak").unlink(missing_ok=True)
    path = segments(data_dir)[0]
    content = path.read_bytes()
    flip(path, content.index(raws[1]) + 200)
    report = looked_at(data_dir).report
    assert (report.opens, report.envelopes_behind, len(report.envelopes_broken)) == (False, 2, 1)
    assert repaired(data_dir).accepted == 2
    assert len(seeds_of(data_dir)) == 2


def test_after_a_repair_the_own_feed_is_not_continued_silently(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    broken_in_the_middle(data_dir)
    repaired(data_dir)

    async def say(node: Node) -> None:
        assert node.core.feed_risk
        with pytest.raises(RefusedError) as refused:
            await publish(node)
        assert refused.value.reason is Reason.FEED_RISK

    work(data_dir, say)
    work(data_dir, say)

    async def say_with_the_operators_word(node: Node) -> None:
        await publish(node)

    work(data_dir, say_with_the_operators_word, Clock(), accept_feed_risk=True)


def test_nothing_left_to_start_from_still_gives_all_readable_envelopes(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    for name in ("state.json", "state.json.bak"):
        (data_dir / name).unlink()
    segments(data_dir)[0].unlink()
    report = looked_at(data_dir).report
    assert (report.opens, report.kept_lsn, report.seeds_kept) == (False, 0, 0)
    totals = repaired(data_dir)
    assert totals.entries == totals.accepted == 13
    assert len(seeds_of(data_dir)) == len(made.seeds) - 2


def test_a_damaged_archive_is_made_anew_from_the_journal(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    clock = Clock()
    work(data_dir, own_job, clock)
    before = seeds_of(data_dir)
    clock.now_ms += 30 * 24 * 3_600_000

    async def archive(node: Node) -> None:
        assert await node.archivist.archive_due()

    work(data_dir, archive, clock)
    (segment,) = (data_dir / "archive").glob("*.seg")
    flip(segment, 10)
    with pytest.raises(DataDirDamagedError):
        seeds_of(data_dir)
    assert not looked_at(data_dir).report.opens
    assert repaired(data_dir).rejected == {}
    assert seeds_of(data_dir) == before
    assert verify(data_dir).ok


def test_the_key_and_newer_versions_are_not_for_fsck_to_repair(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    key = (data_dir / "identity.key").read_bytes()
    (data_dir / "identity.key").write_bytes(b"nonsense")
    assert "identity.key" in looked_at(data_dir).report.obstacle
    (data_dir / "identity.key").unlink()
    assert "identity.key" in looked_at(data_dir).report.obstacle
    (data_dir / "identity.key").write_bytes(key)
    (data_dir / "identity.key").chmod(0o644)
    assert looked_at(data_dir).report.obstacle_reason is Reason.UNSAFE_PERMISSIONS


def test_the_command(made: Made, tmp_path: Path) -> None:
    data_dir = copy_of(made, tmp_path)
    words = quiet(data_dir)
    done = crabnet("fsck", *words)
    assert (done.returncode, "healthy" in done.stdout) == (0, True), done.stderr
    broken_in_the_middle(data_dir)
    assert crabnet("status", *words).returncode == 5
    done = crabnet("fsck", *words)
    assert done.returncode == 5
    assert "not readable: frames 3 to 3" in done.stdout
    assert "readable after that: 12 envelopes" in done.stdout
    done = crabnet("fsck", "--repair", "--json", *words)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["repaired"], shown["opens"], shown["applied"]["accepted"]) == (True, True, 11)
    assert crabnet("audit", "verify", *words).returncode == 0
    done = crabnet("seed", "publish", "--title", "t", "--cmd", "echo", *words)
    assert (done.returncode, done.stderr.split(": ")[1]) == (3, "feed_risk")
    assert crabnet("fsck", *quiet(tmp_path / "none")).returncode == 2


def test_beside_a_running_node_it_refuses(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path / "node")
    node.start()
    try:
        done = crabnet("fsck", "--repair", *quiet(node.data_dir))
        assert (done.returncode, "pid" in done.stderr) == (4, True)
    finally:
        node.end()


PLACES = ("archive",)
MORE_PLACES = (
    *("origin", "identity.key", "state.json.tmp", "index.sqlite-wal", "control.sock"),
    *("index.sqlite", "reserve", "state.json", "events.lock", "index.sqlite-shm", "archive.sqlite-wal"),
    *("archive.sqlite", "lock"),
)


@pytest.mark.parametrize("name", [*PLACES, *(pytest.param(name, marks=pytest.mark.deep) for name in MORE_PLACES)])
def test_something_else_in_the_place_of_a_file_is_named(made: Made, tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / "d"
    shutil.copytree(made.path, data_dir)
    place = data_dir / name
    if place.is_dir():
        shutil.rmtree(place)
        place.write_text("x", encoding="utf-8")
    else:
        place.unlink(missing_ok=True)
        place.mkdir()
    for words in (["fsck"], ["fsck", "--repair"]):
        done = crabnet(*words, *quiet(data_dir))
        assert (done.returncode, done.stdout) == (5, "")
        assert str(place) in done.stderr
    done = crabnet("listen", *quiet(data_dir))
    assert done.returncode == 5
    assert str(place) in done.stderr


def test_a_pipe_among_the_segments_is_named(made: Made, tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    shutil.copytree(made.path, data_dir)
    place = data_dir / "history" / f"{1:020d}.log"
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    for words in (["fsck"], ["fsck", "--repair"], ["listen"]):
        done = crabnet(*words, *quiet(data_dir))
        assert done.returncode == 5, words
        assert f"{place} is a pipe" in done.stderr


def test_what_this_user_may_not_use_is_named(made: Made, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may use every file: run the tests as an ordinary user for this one")
    for name in ("archive.sqlite", "index.sqlite", "events.lock", "state.json"):
        data_dir = tmp_path / name
        shutil.copytree(made.path, data_dir)
        (data_dir / name).touch()
        (data_dir / name).chmod(0)
        for words in (["fsck"], ["fsck", "--repair"], ["listen"]):
            done = crabnet(*words, *quiet(data_dir))
            assert done.returncode == 6, (name, words)
            assert str(data_dir / name) in done.stderr
        (data_dir / name).chmod(0o600)


def test_an_archive_alone_is_no_new_data_dir(made: Made, tmp_path: Path) -> None:
    """Journal, history, checkpoints and origin are gone (disk-8): to begin anew would hide that."""
    data_dir = tmp_path / "d"
    shutil.copytree(made.path, data_dir)
    for name in ("journal", "history"):
        shutil.rmtree(data_dir / name)
    for name in ("state.json", "state.json.bak", "sealed", "origin"):
        (data_dir / name).unlink(missing_ok=True)
    (data_dir / "archive").mkdir(exist_ok=True)
    (data_dir / "archive" / f"{1:020d}.seg").write_bytes(b"rows")
    for words in (["listen"], ["fsck"], ["status"]):
        done = crabnet(*words, *quiet(data_dir))
        assert done.returncode == 5, (words, done.stdout)
        assert "archive" in done.stderr + done.stdout
    assert (data_dir / "archive" / f"{1:020d}.seg").read_bytes() == b"rows"


@pytest.mark.deep
def test_a_start_tells_that_history_is_missing(tmp_path: Path) -> None:
    data_dir = tmp_path / "d"
    publish = ["seed", "publish", "--title", "t", "--cmd", "true", *quiet(data_dir)]
    for _ in range(4):
        assert crabnet(*publish).returncode == 0
    shutil.rmtree(data_dir / "history")
    assert crabnet(*publish, "--accept-feed-risk").returncode == 0
    outcomes = [event.payload["outcome"] for event in read_events(data_dir, kinds=["ledger_recovered"]).events]
    assert "history_missing" in outcomes


def test_content_of_which_no_checkpoint_can_be_made_is_found(tmp_path: Path) -> None:
    """A node would start on it, and stop at its next checkpoint."""
    author = Author("author")
    raws: list[bytes] = []

    async def fill(node: Node) -> None:
        seed = author.seed(description="\U0001f600" * 60_000, rules="\U0001f600" * 60_000)
        published = author.say(Kind.SEED_CREATED, {"seed": seed})
        bid: JsonObject = {"id": author.next_object_id(), "seed_id": seed["id"], "rests_on": published.meta.id}
        bid |= {"bidder": author.id, "price": 1, "created_at": NOW_S}
        raws.extend((published.raw, author.say(Kind.BID_SUBMITTED, {"bid": bid}).raw))
        await import_entries(node, raws, [])

    work(tmp_path, fill)
    assert looked_at(tmp_path).report.healthy
    (record,) = decode_frame(_last_frame(tmp_path))[-1:]
    assert isinstance(record, EnvelopeRecord)
    [event] = record.events
    progress = Progress(note="x" * (CHECKPOINT_ROW_BYTES_MAX - 100_000))
    made_up = structs.replace(record, events=(structs.replace(event, progress=progress, adds=False),), raw=Raw(raws[1]))
    with Ledger.open(tmp_path, files=FILES, now_ms=START_MS, role=LockRole.COMMAND) as ledger:
        ledger.append(frame_of([encode_record(made_up)]))
    report = looked_at(tmp_path).report
    assert (report.opens, report.healthy) == (True, False)
    [damage] = report.damages
    assert "checkpoint" in damage


def _last_frame(data_dir: Path) -> bytes:
    with Ledger.open(data_dir, files=FILES, now_ms=START_MS, role=LockRole.COMMAND) as ledger:
        return list(ledger.frames_after(0))[-1].payload


@pytest.mark.parametrize(("told", "lacks"), [([1], 0), ([1, 2, 3], 0), ([0, 2, 3], 1)])
def test_what_was_saved_and_rests_on_what_was_lost_stays_aside_until_that_is_back(
    tmp_path: Path, told: list[int], lacks: int
) -> None:
    creator, worker = Author("creator"), Author("worker")
    seed = creator.publish()
    bid = worker.bid(seed)
    claim = creator.claim(bid)
    steps = [seed, bid, claim, worker.start(claim)]
    data_dir = tmp_path / "data"
    work(data_dir, nothing)
    (data_dir / "damaged").mkdir(mode=0o700, exist_ok=True)
    saved = data_dir / "damaged" / "entries-1.ndjson"
    saved.write_bytes(b"".join(steps[at].raw + b"\n" for at in told))
    apply_pending(FILES, settings_of(data_dir), [saved])
    [waiting] = (data_dir / "damaged").iterdir()
    assert waiting.name == "entries-1.ndjson.waiting"

    async def find(node: Node) -> None:
        await import_entries(node, [steps[lacks].raw], [])

    work(data_dir, find)
    apply_pending(FILES, settings_of(data_dir), [waiting])
    [done] = (data_dir / "damaged").iterdir()
    assert done.name != waiting.name
    statuses: list[tuple[int, int]] = []

    async def look(node: Node) -> None:
        record = node.core.record(seed_id_of(seed))
        statuses.append((len(record.bids), len(record.others)))

    work(data_dir, look)
    assert statuses == [(1, max(0, len(told) - 1))]


async def nothing(_: Node) -> None:
    """Only open the data dir."""
