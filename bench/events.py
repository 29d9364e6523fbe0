"""Measures pages of events: with ten million events and with ten thousand, in turns. Also what the index costs.

``CRABNET_BENCH_EVENTS`` sets the larger number.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.report import Measure, at_most, spread
from crabnet.limits import EVENT_FILE_BYTES_MAX_DEFAULT
from crabnet.monitor.events import Event, EventEncoder, make_event
from crabnet.monitor.index.index import EventIndex
from crabnet.monitor.index.tables import INDEX_NAME
from crabnet.monitor.lines import CURRENT_NAME, rotated_name
from crabnet.monitor.query import EventQuery
from crabnet.monitor.reader import EventReader
from crabnet.monitor.registry import EventKind
from crabnet.storage.files import RealFiles

GROUP: Final = "Events"
NUMBER_VARIABLE: Final = "CRABNET_BENCH_EVENTS"
_SMALL: Final = 10_000
_LARGE: Final = 10_000_000
_LARGE_QUICK: Final = 300_000
_NODE: Final = "12D3KooW" + "N" * 44
_FIRST_MS: Final = 1_790_000_000_000
_STEP_MS: Final = 10
_AUTHORS: Final = tuple(f"12D3KooW{number:044}" for number in range(100))
_BATCH: Final = 1_000
_EVENTS_PER_SEED: Final = 10
_AT_ONCE: Final = 200
"""Seeds about which there are events at the same time."""


def measure(*, quick: bool) -> list[Measure]:
    """Make the events, index them, and ask the same questions of the few and of the many."""
    large = int(os.environ.get(NUMBER_VARIABLE) or (_LARGE_QUICK if quick else _LARGE))
    rounds = 20 if quick else 60
    with tempfile.TemporaryDirectory(prefix="crabnet-bench-") as name:
        few, many = Path(name) / "few", Path(name) / "many"
        _make(few, _SMALL)
        _make(many, large)
        _index(few)
        taken_s = _index(many)
        log_bytes = sum(path.stat().st_size for path in many.glob("*.ndjson"))
        index_bytes = sum(path.stat().st_size for path in many.glob(f"{INDEX_NAME}*"))
        rows = [
            Measure(GROUP, "events in the large log", large, "", note=f"{log_bytes / 2**20:,.0f} MiB"),
            Measure(GROUP, "indexing", large / taken_s, "1/s"),
            Measure(GROUP, "index to log", 100 * index_bytes / log_bytes, "%"),
        ]
        with EventReader(few) as small_reader, EventReader(many) as large_reader:
            begun = time.perf_counter()
            large_reader.page(EventQuery(seed_id=_seed(1)))
            rows.append(
                Measure(GROUP, "opening the index in another process", 1000 * (time.perf_counter() - begun), "ms")
            )
            for title in _queries(_SMALL):
                rows += _compare(title, small_reader, large_reader, large, rounds)
    return rows


def _compare(title: str, few: EventReader, many: EventReader, large: int, rounds: int) -> list[Measure]:
    small_query, large_query = _queries(_SMALL)[title], _queries(large)[title]
    small, big = [], []
    for _ in range(rounds):
        small.append(_timed_ms(few, small_query))
        big.append(_timed_ms(many, large_query))
    ratios = [slow / fast for slow, fast in zip(big, small, strict=True)]
    return [
        Measure(GROUP, f"{title}", statistics.median(big), "ms", note=f"{statistics.median(small):.3g} ms with 10,000"),
        Measure(GROUP, f"{title}, to 10,000 events", statistics.median(ratios), "", at_most(1.5), spread(ratios)),
    ]


def _queries(number: int) -> dict[str, EventQuery]:
    """The questions. Those about a place in the log ask about its middle."""
    middle_ms = _FIRST_MS + number // 2 * _STEP_MS
    kind = frozenset([EventKind.RUN_STARTED.value])
    rare = frozenset([EventKind.FEED_ADOPTED.value])
    return {
        "newest page": EventQuery(),
        "oldest page": EventQuery(newest_first=False),
        "page in the middle": EventQuery(before=number // 2),
        "page of a kind": EventQuery(kinds=kind),
        "page of two kinds in the middle": EventQuery(
            kinds=kind | {EventKind.SEED_CHANGED.value}, after=number // 2, newest_first=False
        ),
        "page of a seed": EventQuery(seed_id=_seed(number // 2)),
        "page of an author and a kind": EventQuery(author=_AUTHORS[0], kinds=kind),
        "page of a rare kind": EventQuery(kinds=rare, limit=5),
        "page of a time": EventQuery(since_ms=middle_ms, until_ms=middle_ms + 500 * _STEP_MS),
        "page of a kind and a time": EventQuery(kinds=kind, since_ms=middle_ms, until_ms=middle_ms + 500 * _STEP_MS),
        "nothing matches": EventQuery(seed_id="never"),
        "nothing matches, and no block excludes it": EventQuery(kinds=kind, reasons=frozenset(["duplicate"])),
        "what a follower asks": EventQuery(after=number - 5, newest_first=False, kinds=kind),
    }


def _timed_ms(reader: EventReader, query: EventQuery) -> float:
    begun = time.perf_counter()
    reader.page(query)
    return 1000 * (time.perf_counter() - begun)


def _seed(event: int) -> str:
    return f"{event // _EVENTS_PER_SEED:036}"


def _make(directory: Path, number: int) -> None:
    """Write files as a log of ``number`` events would."""
    directory.mkdir()
    chance = random.Random(number)
    encoder = EventEncoder()
    made, first = 0, 1
    while made < number:
        with (directory / "making").open("wb") as file:
            while made < number and file.tell() < EVENT_FILE_BYTES_MAX_DEFAULT:
                batch = [_event(event_id, chance) for event_id in range(made + 1, min(number, made + _BATCH) + 1)]
                file.write(encoder.lines(batch))
                made += len(batch)
        name = CURRENT_NAME if made == number else rotated_name(first)
        (directory / "making").rename(directory / name)
        first = made + 1


def _event(event_id: int, chance: random.Random) -> Event:
    seed = _seed(max(1, event_id + chance.randrange(-_AT_ONCE, _AT_ONCE) * _EVENTS_PER_SEED // 2))
    now_ms = _FIRST_MS + event_id * _STEP_MS
    author = _AUTHORS[min(99, int(chance.expovariate(0.05)))]
    which = event_id % 10
    if event_id % 2_000 == 1:
        event = make_event(EventKind.FEED_ADOPTED, now_ms, _NODE, first_seq=event_id, last_seq=event_id)
    elif which == 0:
        event = make_event(EventKind.RUN_STARTED, now_ms, _NODE, seed_id=seed, claim_id=seed, run_id=seed, attempt=1)
    elif which < 3:
        event = make_event(EventKind.SEED_CHANGED, now_ms, _NODE, seed_id=seed, status="Claimed", worker=author)
    elif which < 5:
        event = make_event(
            EventKind.ENVELOPE_IGNORED, now_ms, _NODE, author=author, kind="BidSubmitted", reason="duplicate"
        )
    else:
        event = make_event(
            EventKind.ENVELOPE_ACCEPTED,
            now_ms,
            _NODE,
            envelope_id=f"{event_id:064x}",
            author=author,
            kind="BidSubmitted",
            seq=event_id,
            seed_id=seed,
            address="192.0.2.7:9012",
        )
    event.id = event_id
    return event


def _index(directory: Path) -> float:
    """Index all files. Returns the seconds it took."""
    index = EventIndex(RealFiles(), directory)
    begun = time.perf_counter()
    while index.step().more:
        pass
    index.close()
    return time.perf_counter() - begun
