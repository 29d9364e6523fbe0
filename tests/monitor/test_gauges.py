"""The gauges of the event log while its disk works, and while it does not."""

from __future__ import annotations

from pathlib import Path

from crabnet import limits
from crabnet.monitor.registry import EventKind
from crabnet.monitor.segment import EventLogOptions
from tests.monitor.support import CURRENT, NOW_MS, accepted, open_log, poisoned


def test_what_waits_is_counted_and_its_bytes_are_close_to_what_is_written(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    empty = log.gauges(NOW_MS)
    assert (empty.queued, empty.oldest_unwritten_ms, empty.bytes_behind, empty.dropped_by_kind) == (0, 0, 0, {})
    assert empty.capacity == limits.EVENT_QUEUE_MAX
    for seq in range(500):
        log.put(accepted(seq, NOW_MS + seq))
    behind = log.gauges(NOW_MS + 10_000)
    assert (behind.queued, behind.oldest_unwritten_ms, behind.written) == (500, 10_000, 0)
    log.flush(NOW_MS + 10_000)
    written = (tmp_path / CURRENT).stat().st_size
    assert 0.9 < behind.bytes_behind / written < 1.1
    after = log.gauges(NOW_MS + 10_000)
    assert (after.queued, after.bytes_behind, after.written, after.file_bytes) == (0, 0, 500, written)
    log.close(NOW_MS)


def test_while_the_disk_is_blocked_it_shows_what_waits_and_what_is_lost(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "d").mkdir()
    log = open_log(tmp_path / "d", options=EventLogOptions(queue_max=10), warn=said.append)
    (tmp_path / "d").rename(tmp_path / "away")
    (tmp_path / "d").write_text("in the way")
    for seq in range(3):
        log.put(accepted(seq, NOW_MS))
    assert log.flush(NOW_MS).error
    for seq in range(12):
        log.put(accepted(seq, NOW_MS + 1_000))
    for lsn in range(10):
        log.put(poisoned(lsn, NOW_MS + 2_000))
    log.emit(EventKind.CONFIG_EFFECTIVE, NOW_MS + 3_000, setting="a", value="b")
    gauges = log.gauges(NOW_MS + 5_000)
    assert (gauges.failing, gauges.queued, gauges.oldest_unwritten_ms) == (True, 13, 5_000)
    assert gauges.dropped_by_kind == {"envelope_accepted": 12, "config_effective": 1}
    assert (gauges.dropped, gauges.dropped_alerts, gauges.write_failures) == (13, 0, 1)
    assert gauges.last_error
    for lsn in range(2):
        log.put(poisoned(lsn, NOW_MS + 2_000))
    assert log.gauges(NOW_MS).dropped_alerts == 2

    (tmp_path / "d").unlink()
    (tmp_path / "away").rename(tmp_path / "d")
    assert log.flush(NOW_MS + 6_000).error is None
    log.flush(NOW_MS + 6_000)
    after = log.gauges(NOW_MS + 6_000)
    assert (after.failing, after.queued, after.bytes_behind, after.dropped) == (False, 0, 0, 15)
    log.close(NOW_MS)
