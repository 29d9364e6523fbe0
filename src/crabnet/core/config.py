"""The configuration of the core."""

from __future__ import annotations

from msgspec import Struct

from crabnet import limits
from crabnet.core.budgets.authors import AuthorRates
from crabnet.core.budgets.sources import SourceRates
from crabnet.domain.state import DEFAULT_CAPS, Caps
from crabnet.market.policies import Accepting, AwardRule
from crabnet.market.work import WorkPolicy
from crabnet.protocol.admission import AdmissionPolicy


class CoreConfig(Struct, frozen=True, kw_only=True):
    """The settings that the core needs. Units are in the names. docs/CONFIGURATION.md describes them."""

    policy: AdmissionPolicy = AdmissionPolicy()
    seen_ttl_s: int = 86_400
    seen_capacity: int = 10_000
    parked_ttl_s: int = 60
    request_ids_ttl_s: int = limits.REQUEST_IDS_TTL_S_DEFAULT
    request_ids_max: int = limits.REQUEST_IDS_MAX_DEFAULT
    sources: SourceRates = SourceRates()
    authors: AuthorRates = AuthorRates()
    caps: Caps = DEFAULT_CAPS
    sync_interval_ms: int = 1_000
    sync_fanout: int = limits.SYNC_FANOUT_DEFAULT
    sync_fetch_bytes_per_s: int = 0
    peer_silence_ms: int = limits.PEER_SILENCE_MS_DEFAULT
    peers_remembered: int = limits.PEERS_REMEMBERED_DEFAULT
    execution_grace_ms: int = 30_000
    auto_reclaim: bool = False
    reclaim_attempts_max: int = 3
    auto_award: AwardRule | None = None
    auto_settle: Accepting | None = None
    accept_feed_risk: bool = False
    clock_check: bool = True
    """Whether the node compares its clock with those of peers."""
    stays: bool = True
    """False for a short-lived node: it does not prove its address to peers."""
    archive_after_ms: int = 0
    talk: bool = True
    alias: str = ""
    agent: str = ""
    refuse_equivocators: bool = True
    tell_declines: bool = True
    """Whether the node tells publishers why it does not bid."""
    relay_fanout: int = limits.RELAY_FANOUT_DEFAULT
    work: WorkPolicy = WorkPolicy()
    auto_bid: bool = False
    """Whether the node bids by ``work``."""
    auto_run: bool = False
    """Whether the node runs what it has won, so that it has to know of that."""
