"""The newest events in memory: a page from them is the page that the files would give."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crabnet.monitor import writer
from crabnet.monitor.query import EventPage, EventQuery, page_of_recent
from crabnet.monitor.reader import EventReader
from crabnet.monitor.writer import EventLog
from tests.monitor.support import CURRENT, NOW_MS, SMALL, FailingFiles, accepted, open_log

KEPT = 20
WRITTEN = 50


def from_files(directory: Path, query: EventQuery) -> EventPage:
    with EventReader(directory) as reader:
        return reader.page(query)


def same_as_files(log: EventLog, directory: Path, query: EventQuery) -> bool:
    """Whether the query was answered from memory. If it was, the files must say the same."""
    page = page_of_recent(log.recent, query)
    if page is None:
        return False
    expected = from_files(directory, query)
    assert msgspec.structs.replace(page, first_id=expected.first_id) == expected
    return True


@pytest.fixture(scope="module", name="written")
def _written(tmp_path_factory: pytest.TempPathFactory) -> tuple[EventLog, Path]:
    """A log over several files; the newest KEPT events of it are in memory."""
    directory = tmp_path_factory.mktemp("log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "EVENTS_RECENT_MAX", KEPT)
        log = open_log(directory, options=SMALL)
        for number in range(WRITTEN):
            log.put(accepted(number))
            if number % 3:
                log.flush(NOW_MS)
        log.flush(NOW_MS)
    return log, directory


@given(
    after=st.integers(0, WRITTEN + 3),
    limit=st.sampled_from([0, 1, 7, 1_000]),
    seed_id=st.sampled_from([None, "seed-1", "seed-9"]),
)
@settings(deadline=None)
def test_a_page_is_that_of_the_files(
    written: tuple[EventLog, Path], after: int, limit: int, seed_id: str | None
) -> None:
    log, directory = written
    query = EventQuery(after=after, limit=limit, seed_id=seed_id, newest_first=False)
    assert same_as_files(log, directory, query) is (WRITTEN - KEPT <= after <= WRITTEN)


@pytest.mark.parametrize("failing", range(2, 18))
def test_what_was_not_written_is_not_there(tmp_path: Path, failing: int) -> None:
    log = open_log(tmp_path, files=FailingFiles({failing, failing + 1}, short=failing % 2 == 0), warn=lambda _: None)
    for number in range(12):
        log.put(accepted(number))
        log.flush(NOW_MS)
        if log.recent:
            assert same_as_files(log, tmp_path, EventQuery(after=log.recent[0].id - 1, limit=1_000, newest_first=False))


def test_a_log_that_somebody_has_cut_begins_anew_in_memory(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for number in range(10):
        log.put(accepted(number))
    log.flush(NOW_MS)
    os.truncate(tmp_path / CURRENT, (tmp_path / CURRENT).stat().st_size // 2)
    for number in range(10, 13):
        log.put(accepted(number))
        log.flush(NOW_MS)
        first, last = log.recent[0].id, log.recent[-1].id
        assert [event.id for event in log.recent] == list(range(first, last + 1))
        events = from_files(tmp_path, EventQuery(after=first - 1, limit=1_000, newest_first=False)).events
        assert [event.id for event in events[-2:]] == [event.id for event in log.recent[-2:]]


def test_nothing_is_in_memory_before_the_first_event(tmp_path: Path) -> None:
    assert page_of_recent(open_log(tmp_path).recent, EventQuery(newest_first=False)) is None
