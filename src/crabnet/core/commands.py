"""Inputs of the core: messages from the network, operations of the operator, and ticks of the clock."""

from __future__ import annotations

from msgspec import Struct

from crabnet.core.replica.records import Via
from crabnet.domain.acceptance import Acceptance
from crabnet.domain.model import Failure, OutputFile, SeedStatus, Termination
from crabnet.errors import Reason
from crabnet.market.policies import CheckOutcome, Terms
from crabnet.protocol.sync import Served


class Received(Struct, frozen=True):
    """A whole message from an address."""

    source: str
    data: bytes
    via: Via = Via.LIVE


class Tick(Struct, frozen=True):
    """Time has passed. The node gives this input several times a second."""


class Turn(Struct, frozen=True):
    """The policies may have steps to take. The node gives this input when ``Core.trades`` says so."""


class Checked(Struct, frozen=True):
    """The outcome of the check of a result, which an ``effects.CheckOrder`` asked for."""

    seed_id: str
    result_id: str
    outcome: CheckOutcome


class Answered(Struct, frozen=True):
    """Stored envelopes were sent to a neighbour. ``ranges`` says how far each of its wants was answered."""

    to: str
    ranges: list[Served]


class PeerJoined(Struct, frozen=True):
    """A libp2p peer is connected. Its handshake has proved its id, so it needs no challenge."""

    source: str
    node_id: str


class PeerLeft(Struct, frozen=True):
    """A libp2p peer is not connected any more."""

    source: str


class Misbehaved(Struct, frozen=True):
    """A libp2p peer sent messages that the libp2p process refused: too many of them, or ``hostile`` ones.

    ``size_bytes`` is what they have together: 0 for what was no message, such as a broken frame.
    """

    source: str
    reason: Reason
    count: int
    hostile: bool
    detail: str = ""
    size_bytes: int = 0


class RequestTag(Struct, frozen=True):
    """The request of a caller: the id that the caller chose, the name of the operation, the digest of the content."""

    request_id: str
    operation: str
    digest: str


class Publish(Struct, frozen=True, kw_only=True):
    """Offer a task. Windows begin now and are rounded up to whole seconds."""

    title: str
    command: str
    description: str = ""
    timeout_ms: int = 120_000
    bid_window_ms: int = 60_000
    claim_window_ms: int | None = None
    exec_deadline_ms: int | None = None
    min_price: int = 0
    max_bids: int = 0
    reward: int = 0
    rules: str = ""
    acceptance: Acceptance | None = None
    settle_window_ms: int | None = None
    follows: str | None = None
    terms: Terms | None = None
    """How the node goes on with it by itself. None: by the settings."""
    announce: bool = True
    request: RequestTag | None = None


class SubmitBid(Struct, frozen=True, kw_only=True):
    """Offer to run a seed."""

    seed_id: str
    price: int
    notes: str = ""
    announce: bool = True
    request: RequestTag | None = None


class CreateClaim(Struct, frozen=True, kw_only=True):
    """Choose a bid."""

    seed_id: str
    bid_id: str
    announce: bool = True
    request: RequestTag | None = None


class StartRun(Struct, frozen=True, kw_only=True):
    """Begin to run a claimed seed. The reply is the order to run. The node will renew the run within ``lease_ms``."""

    seed_id: str
    lease_ms: int | None = None
    announce: bool = True
    request: RequestTag | None = None


class RenewRun(Struct, frozen=True, kw_only=True):
    """State that a run still goes on."""

    seed_id: str
    lease_ms: int
    announce: bool = True


class FinishRun(Struct, frozen=True, kw_only=True):
    """State the result of a run.

    ``refusal`` is set if the runner's policy refused the command, which was then never started. ``stdout_base64`` and
    ``stderr_base64`` are set if the texts cannot hold the bytes.
    """

    seed_id: str
    exit_code: int
    timed_out: bool
    stdout: str
    stderr: str
    output_hash: str
    duration_ms: int
    termination: Termination
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    stdout_base64: str = ""
    stderr_base64: str = ""
    refusal: Reason | None = None
    sandbox: str | None = None
    profile: str | None = None
    files: tuple[OutputFile, ...] = ()
    files_omitted: int = 0
    failed: Failure | None = None
    announce: bool = True
    request: RequestTag | None = None


class Settle(Struct, frozen=True, kw_only=True):
    """Accept or reject a result, close (Expired) a seed to withdraw it, or forfeit an attempt: one that is overdue, or
    whose worker says that it failed.
    """

    seed_id: str
    outcome: SeedStatus
    note: str = ""
    announce: bool = True
    request: RequestTag | None = None


class Acknowledge(Struct, frozen=True, kw_only=True):
    """State that this node has seen a settlement of its work, so that the creator cannot take it back."""

    seed_id: str
    announce: bool = True


class ChangeTerms(Struct, frozen=True, kw_only=True):
    """Replace the terms of an own seed that is not final. None: the node does nothing more with it by itself."""

    seed_id: str
    terms: Terms | None


Statement = Publish | SubmitBid | CreateClaim | StartRun | RenewRun | FinishRun | Settle | Acknowledge
"""Operations that sign an envelope."""
Operation = Statement | ChangeTerms
FromPeers = Received | Answered | PeerJoined | PeerLeft | Misbehaved
Input = FromPeers | Tick | Turn | Checked | Operation
