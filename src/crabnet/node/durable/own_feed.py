"""Finds out whether a node knows its own feed up to its end (docs/adr/0006-feed-risk.md). The signs are the state of
the data dir, the place of its files, and a note outside of the data dir.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from msgspec import Struct

from crabnet.core.core import Core
from crabnet.core.sync.feed_guard import FeedWait
from crabnet.settings import Settings
from crabnet.settings.kinds import Wrong, expand_home
from crabnet.storage.files import Files, guarded, replace_file
from crabnet.storage.high_water import HighWater
from crabnet.storage.keyfile import KEY_FILE
from crabnet.storage.layout import Layout
from crabnet.storage.ledger import Ledger
from crabnet.storage.origin import Origin, touched

RISK_FILE: Final = "feed-risk"
_TEXT: Final = b"A peer must confirm the end of this node's own feed before the node writes to it.\n"


class RiskMark:
    """The file ``feed-risk`` in a data dir. It is durable when ``keep`` returns. Methods may raise StorageFailedError.

    The file is needed because a repair may put the end of the feed in doubt but leave a data dir that looks clean at
    the next start.
    """

    def __init__(self, files: Files, data_dir: Path) -> None:
        self._files = files
        self._path = data_dir / RISK_FILE
        with guarded("look for the mark", self._path):
            self.present = files.size(self._path) is not None

    def keep(self, at_risk: bool) -> None:
        """Create or remove the mark."""
        if at_risk == self.present:
            return
        with guarded("change the mark", self._path):
            if at_risk:
                replace_file(self._files, self._path, _TEXT)
            else:
                self._files.unlink(self._path)
                self._files.fsync_dir(self._path.parent)
        self.present = at_risk


class Traces(Struct, frozen=True):
    """Signs in a data dir before it is opened: it holds only a key, or another program has restored its journal."""

    key_alone: bool
    restored: bool


def traces_of(data_dir: Path) -> Traces:
    """Look for the signs. Call this before anything is written. Raises StorageFailedError."""
    layout = Layout(data_dir)
    with guarded("look at the journal", layout.journal):
        has_journal = layout.journal.is_dir()
        segments = sorted(layout.journal.glob("*.log")) if has_journal else []
        key_alone = (data_dir / KEY_FILE).exists() and not has_journal and not layout.state.exists()
        return Traces(key_alone, bool(segments) and touched(segments[-1]))


class OwnFeed(Struct, frozen=True):
    """The findings about the end of the node's own feed when the data dir was opened."""

    risk_mark: RiskMark
    high_water: HighWater
    accepted: bool
    """True if there is a risk and the operator accepts it (``accept_feed_risk``)."""
    wait: FeedWait
    """How long to ask peers, which the node does even without any sign of a risk."""


def high_water_of(files: Files, settings: Settings, node_id: str) -> HighWater:
    """The note about the feed of a node, outside of the data dir."""
    return HighWater(files, state_dir_of(settings), node_id, settings.namespace)


def state_dir_of(settings: Settings) -> Path | None:
    """The directory for files that belong to no data dir (XDG Base Directory Specification). None if there is none."""
    if settings.state_dir is not None:
        return settings.state_dir
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    if base.is_absolute():
        return base / "crabnet"
    try:
        return expand_home(Path("~/.local/state/crabnet"))
    except Wrong:
        return None


def examine(
    files: Files, settings: Settings, ledger: Ledger, core: Core, traces: Traces, *, key_created: bool
) -> OwnFeed:
    """Find out whether the end of the node's own feed is in doubt, and tell ``core`` if it is.

    The ledger must be open and replayed. Raises StorageFailedError.
    """
    data_dir = settings.data_dir
    feed = core.replica.feeds.get(core.signer.node_id)
    risk_mark = RiskMark(files, data_dir)
    origin = Origin(files, data_dir, (KEY_FILE, Layout(data_dir).journal.name))
    high_water = high_water_of(files, settings, core.signer.node_id)
    mark = None if feed.end else high_water.read()
    ahead = mark is not None and (mark.seq > feed.head_seq or feed.in_window(mark.seq) not in {None, mark.id})
    vouches = mark is not None and not ahead and high_water.is_original(mark)
    signs = {
        "the end of the journal was damaged": ledger.recovery.may_lack_frames,
        "the data dir is a copy": origin.copied,
        f"{high_water.path} names envelope {mark.seq if mark else 0} of this node, which the data dir lacks": ahead,
        "the data dir holds a key and nothing else": traces.key_alone and not vouches,
        "the journal was restored, or changed by another program": traces.restored and not vouches,
        "the end of this node's feed was in doubt before": risk_mark.present,
    }
    why = next((words for words, sign in signs.items() if sign), "")
    accepted = settings.accept_feed_risk
    if why and not accepted:
        core.endanger_feed(why, mark.seq if ahead and mark is not None else 0)
    risk_mark.keep(core.feed_risk)
    origin.keep()
    if key_created or accepted:
        high_water.keep(feed.head_seq, feed.head_id)
    policy = settings.feed_unanswered
    then_writes = key_created or policy == "write" or (policy == "mark" and vouches)
    return OwnFeed(risk_mark, high_water, bool(why) and accepted, FeedWait(settings.feed_wait_ms, then_writes))
