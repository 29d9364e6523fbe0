"""The log of the operator: levels, formats, and that neither a flood nor a reader who sleeps harms the node."""

from __future__ import annotations

import json
import threading

from crabnet import limits
from crabnet.monitor.events import make_event
from crabnet.monitor.operator_log import OperatorLog
from crabnet.monitor.registry import EventKind
from crabnet.monitor.sentences import Level

NOW_MS = 1_795_429_130_123
STAMP = "2026-11-23T10:18:50.123Z"


class Reader:
    """What reads the log; while ``asleep`` nothing can be written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.asleep = False
        self.now_ms = NOW_MS

    def write(self, line: str) -> bool:
        if not self.asleep:
            self.lines.append(line)
        return not self.asleep

    def log(self, level: Level = Level.INFO, *, as_json: bool = False, stamped: bool = True) -> OperatorLog:
        return OperatorLog(self.write, lambda: self.now_ms, level=level, as_json=as_json, stamped=stamped)


def found(number: int) -> str:
    return f"peer n found at 192.0.2.1:{number}\n"


def find(log: OperatorLog, number: int) -> None:
    log.tell(make_event(EventKind.PEER_FOUND, NOW_MS, "me", peer="n", address=f"192.0.2.1:{number}"))


def test_text_has_a_stamp_and_names_what_is_not_usual() -> None:
    reader = Reader()
    log = reader.log(Level.DEBUG)
    for level in Level:
        log.say("that", "node", level)
    assert reader.lines == [f"{STAMP} {word}that\n" for word in ("debug: ", "", "WARNING: ", "ALERT: ")]
    reader.lines.clear()
    find(reader.log(stamped=False), 7)
    assert reader.lines == [found(7)]


def test_json_is_one_object_per_line() -> None:
    reader = Reader()
    find(reader.log(as_json=True, stamped=False), 7)
    [line] = reader.lines
    assert json.loads(line) == {
        "ts": STAMP,
        "level": "info",
        "kind": "peer_found",
        "message": found(7).rstrip(),
        "fields": {"peer": "n", "address": "192.0.2.1:7"},
    }


def test_a_level_leaves_out_what_is_below_it() -> None:
    for least in Level:
        reader = Reader()
        log = reader.log(least)
        for level in Level:
            log.say("that", "node", level)
        log.tell(make_event(EventKind.GAP_DETECTED, NOW_MS, "me"))
        find(log, 1)
        log.tell(make_event(EventKind.DISK_LOW, NOW_MS, "me"))
        log.tell(make_event(EventKind.CLOCK_SUSPECT, NOW_MS, "me"))
        assert len(reader.lines) == 2 * (4 - least.rank)


def test_a_flood_of_one_kind_is_counted_and_keeps_out_nothing_else() -> None:
    reader = Reader()
    log = reader.log(stamped=False)
    for number in range(1_000):
        find(log, number)
    log.say("other", "node")
    assert len(reader.lines) == limits.LOG_LINES_PER_WINDOW + 1
    assert reader.lines[-1] == "other\n"
    reader.now_ms += limits.LOG_WINDOW_MS
    log.tick()
    assert (
        reader.lines[-1] == f"{1_000 - limits.LOG_LINES_PER_WINDOW} more lines about peer_found left out within 60 s\n"
    )
    find(log, 7)
    assert reader.lines[-1] == found(7)
    count = len(reader.lines)
    reader.now_ms += limits.LOG_WINDOW_MS
    log.tick()
    assert len(reader.lines) == count


def test_lines_that_nobody_reads_are_lost_and_counted() -> None:
    reader = Reader()
    log = reader.log(stamped=False)
    find(log, 1)
    reader.asleep = True
    for number in range(5):
        find(log, number)
    reader.asleep = False
    find(log, 9)
    assert reader.lines == [found(1), "WARNING: 5 lines were lost, because nobody read this log\n", found(9)]


def test_several_threads_may_use_it() -> None:
    reader = Reader()
    log = reader.log(as_json=True)

    def warn(number: int) -> None:
        for _ in range(20):
            log.say("x" * 500, f"kind {number}")

    threads = [threading.Thread(target=warn, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(line)["kind"] for line in reader.lines) == [
        f"kind {n}" for n in range(4) for _ in range(20)
    ]
