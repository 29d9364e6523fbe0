"""Containment of unexpected errors (ADR 27). Only an error while applying is fatal.

A soft part that fails is made anew. A message that fails while it is judged is refused. ``Boundary`` separates judging,
which only reads, from applying. Errors of damaged or failing storage are never contained here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from types import TracebackType
from typing import Final, NamedTuple

from crabnet import limits
from crabnet.errors import CrabnetError, DataDirDamagedError, Reason, RefusedError, StorageFailedError


class Part(StrEnum):
    """The soft parts. Each can be derived anew from the replica and the configuration, or learned again."""

    SOURCES = "sources"
    BUDGETS = "budgets"
    PEERS = "peers"
    ADDRESS_BOOK = "address_book"
    WANTS = "wants"
    PARKING = "parking"
    DIGESTS = "digests"
    COMPARISONS = "comparisons"
    PROOFS = "proofs"
    NAMED = "named"
    RELAY = "relay"
    ANNOUNCER = "announcer"
    FEED_GUARD = "feed_guard"
    CLOCKS = "clocks"
    PRESENCE = "presence"
    DEADLINES = "deadlines"
    BUYER = "buyer"
    SELLER = "seller"
    DECLINES = "declines"
    HISTORIES = "histories"


UNKNOWN_PART: Final = "soft_state"
"""The part of a fault that happened in no known part. All parts are made anew then."""
JUDGING: Final = "judging"


class Fault(NamedTuple):
    """An unexpected error and its place. ``message`` is the message that was being handled, empty if there was none."""

    part: str
    error: BaseException
    message: bytes = b""
    source: str = ""


class ReplicaFailedError(Exception):
    """An unexpected error while applying or committing. Memory cannot be trusted any more, the journal can.

    ``messages`` were being handled and must be refused in future. ``suspects`` were committed together, and one of them
    may be the cause.
    """

    def __init__(
        self,
        stage: str,
        cause: BaseException,
        *,
        messages: tuple[bytes, ...] = (),
        suspects: tuple[bytes, ...] = (),
        source: str = "",
    ) -> None:
        self.stage = stage
        self.cause = cause
        blameless = isinstance(cause, MemoryError | StorageFailedError | DataDirDamagedError)
        self.messages = () if blameless else messages
        self.suspects = () if blameless else suspects
        self.source = source
        super().__init__(f"unexpected {type(cause).__name__} while {stage}: {cause}")


def is_containable(error: BaseException | None) -> bool:
    """False for errors that always end the node: interruptions, and storage that fails or is damaged."""
    return isinstance(error, Exception) and not isinstance(
        error, StorageFailedError | DataDirDamagedError | ReplicaFailedError
    )


def hash_of(message: bytes) -> str:
    """The hash by which a message is refused: hex SHA-256 of its bytes."""
    return hashlib.sha256(message).hexdigest()


class Boundary:
    """Counts applied changes, and knows whether their journal records were handed over to the effects."""

    def __init__(self) -> None:
        self.crossings = 0
        self.raw = b""
        """The envelope that was applied last, empty if the last change was not an envelope."""
        self._handed_over = 0

    @property
    def is_open(self) -> bool:
        """True while a change was applied, in full or in part, whose record has not been handed over."""
        return self.crossings != self._handed_over

    def cross(self, raw: bytes = b"") -> None:
        """Call this just before the first change that belongs to a record."""
        self.crossings += 1
        self.raw = raw

    def close(self) -> None:
        """Call this when the records of all applied changes will reach the journal before those of later changes."""
        self._handed_over = self.crossings


def _no_parts() -> Mapping[Part, object]:
    return {}


def _nothing_to_renew(_: Part) -> None:
    return None


class Mending:
    """Takes unexpected errors. ``parts`` returns the present parts, ``renew`` makes one anew."""

    def __init__(self) -> None:
        self.boundary = Boundary()
        self.broken: ReplicaFailedError | None = None
        """Set permanently once memory cannot be trusted any more."""
        self.refused: set[str] = set()
        """Hashes of messages that were being applied or committed when a node failed on this data dir."""
        self.suspects: set[str] = set()
        """Hashes of messages that are committed alone, because one of them may have caused a failed commit."""
        self.parts: Callable[[], Mapping[Part, object]] = _no_parts
        self.renew: Callable[[Part], None] = _nothing_to_renew
        self.soft = _Soft(self)
        """A context for a step that touches only soft parts. If a part fails, it is made anew and the step ends."""
        self.message = b""
        self.source = ""
        self._faults: list[Fault] = []
        self._lost = 0

    def handling(self, message: bytes = b"", source: str = "") -> None:
        """Set the message that is handled from now on. Raises ReplicaFailedError if memory cannot be trusted."""
        if self.broken is not None:
            raise self.broken
        self.message, self.source = message, source

    def refuses(self, message: bytes) -> bool:
        """True for a message on which a node has failed on this data dir."""
        return bool(self.refused) and hash_of(message) in self.refused

    def is_suspect(self, message: bytes) -> bool:
        """True for a message that is to be committed alone."""
        return bool(self.suspects) and hash_of(message) in self.suspects

    def judging(self, message: bytes) -> _Judging:
        """A context for a step that judges ``message``. An error before the boundary is crossed is contained here."""
        return _Judging(self, message)

    def separately(
        self, part: str, renew: Callable[[], None] | None = None, *, by_message: bool = False
    ) -> _Separately:
        """A context for steps of a soft part that is not a ``Part``. ``renew`` makes it anew. It can be entered again.

        ``by_message``: each step belongs to the message that is being handled.
        """
        return _Separately(self, part, renew, by_message)

    def fault(self, part: str, error: BaseException, message: bytes) -> None:
        """Keep an error for ``take_faults``. Beyond FAULTS_PENDING_MAX errors only the number is kept."""
        if len(self._faults) < limits.FAULTS_PENDING_MAX:
            self._faults.append(Fault(part, error, message, self.source if message else ""))
        else:
            self._lost += 1

    def take_faults(self) -> tuple[list[Fault], int]:
        """The faults since the last call, and the number of further ones that were not kept."""
        found, lost = self._faults, self._lost
        self._faults, self._lost = [], 0
        return found, lost

    def fail(self, stage: str, error: Exception) -> ReplicaFailedError:
        """Record that memory cannot be trusted from now on. Returns the error to raise."""
        if self.broken is None:
            messages = tuple(dict.fromkeys(raw for raw in (self.message, self.boundary.raw) if raw))
            self.broken = ReplicaFailedError(stage, error, messages=messages, source=self.source)
            self.broken.__cause__ = error
        return self.broken

    def mend(self, error: BaseException) -> None:
        """Keep an error of a soft part and make the part anew. If the part is not known, make all parts anew."""
        part = _part_in(error, self.parts())
        self.fault(part or UNKNOWN_PART, error, self.message)
        for each in Part if part is None else (part,):
            try:
                self.renew(each)
            except Exception as again:  # noqa: BLE001 - the part stays as it is, the others are made anew
                self.fault(each, again, self.message)


def _part_in(error: BaseException, parts: Mapping[Part, object]) -> Part | None:
    """The part whose code was running, the innermost if one called another."""
    names = {id(each): part for part, each in parts.items()}
    found: Part | None = None
    trace = error.__traceback__
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


class _Soft(AbstractContextManager[None]):
    """Has no state of its own, so one instance serves every step, including nested ones."""

    def __init__(self, mending: Mending) -> None:
        self._mending = mending

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not is_containable(error):
            return False
        self._mending.mend(error)
        return True


class _Judging(AbstractContextManager[None]):
    def __init__(self, mending: Mending, message: bytes) -> None:
        self._mending = mending
        self._message = message
        self._crossings = mending.boundary.crossings

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not is_containable(error) or self._mending.boundary.crossings != self._crossings:
            return False
        self._mending.fault(JUDGING, error, self._message)
        return True


class _Separately(AbstractContextManager[None]):
    def __init__(self, mending: Mending, part: str, renew: Callable[[], None] | None, by_message: bool) -> None:
        self._mending = mending
        self._part = part
        self._renew = renew
        self._by_message = by_message

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not is_containable(error):
            return False
        self._mending.fault(self._part, error, self._mending.message if self._by_message else b"")
        if self._renew is not None:
            self._renew()
        return True


class Containment(AbstractContextManager[None]):
    """The context of everything that an input does.

    An error with the boundary open is fatal. Any other error becomes a fault and ends here. ``operation`` names an
    operation: its CrabnetErrors pass, and an unexpected error becomes a RefusedError, because the caller needs an
    answer.
    """

    def __init__(self, mending: Mending, operation: str | None = None) -> None:
        self._mending = mending
        self._operation = operation

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        mending = self._mending
        if error is None:
            mending.boundary.close()
            return False
        if not isinstance(error, Exception) or isinstance(error, ReplicaFailedError):
            return False
        if mending.boundary.is_open:
            failed = mending.fail("applying", error)
            if is_containable(error):
                raise failed
        if not is_containable(error) or (self._operation is not None and isinstance(error, CrabnetError)):
            return False
        mending.fault(JUDGING, error, mending.message)
        if self._operation is not None:
            raise RefusedError(
                f"{self._operation}: an unexpected {type(error).__name__} happened; see quarantine/ in the data dir",
                Reason.INTERNAL,
            ) from error
        return True
