"""A worker says that it knows of a settlement, so that its creator cannot take it back."""

from __future__ import annotations

from crabnet.core.commands import CreateClaim, Publish, Received, Settle, SubmitBid, Tick
from crabnet.core.config import CoreConfig
from crabnet.core.core import Core
from crabnet.core.effects import Effects
from crabnet.domain.model import SeedStatus
from tests.sim.market import result
from tests.support.envelopes import NOW_S, Author, admitted, seed_id_of, signer

NOW_MS = NOW_S * 1000
SOURCE = "udp:192.0.2.1:9012"


def core() -> Core:
    return Core(CoreConfig(), signer("worker"), lambda: 1)


def acknowledged(core: Core, seed_id: str) -> int:
    """How many acknowledgements count after a tick."""
    core.handle(Tick(), NOW_MS, Effects())
    return sum(fact.kind.value == "acknowledged" for fact in core.record(seed_id).others)


def test_the_settlement_of_anothers_seed_is_acknowledged_once() -> None:
    here, creator = core(), Author("creator")
    seed = creator.publish()
    effects = Effects()
    here.handle(Received(SOURCE, seed.raw), NOW_MS, effects)
    here.handle(SubmitBid(seed_id=seed_id_of(seed), price=5), NOW_MS, effects)
    bid = next(send for send in effects.sends if send.kind == "BidSubmitted")
    claim = creator.claim(admitted(bid.data).envelope)
    here.handle(Received(SOURCE, claim.raw), NOW_MS, effects)
    effects = Effects()
    here.handle(result(seed_id_of(seed)), NOW_MS, effects)
    done = next(send for send in effects.sends if send.kind == "TaskResult")
    assert acknowledged(here, seed_id_of(seed)) == 0
    here.handle(Received(SOURCE, creator.settle(admitted(done.data).envelope).raw), NOW_MS, Effects())
    assert acknowledged(here, seed_id_of(seed)) == 1
    assert acknowledged(here, seed_id_of(seed)) == 1


def test_nobody_acknowledges_its_own_settlement() -> None:
    here = core()
    effects = Effects()
    here.handle(Publish(title="t", command="true"), NOW_MS, effects)
    seed_id = effects.reply_seed_id
    here.handle(SubmitBid(seed_id=seed_id, price=5), NOW_MS, Effects())
    [bid] = here.record(seed_id).bids
    here.handle(CreateClaim(seed_id=seed_id, bid_id=bid.key), NOW_MS, Effects())
    here.handle(result(seed_id), NOW_MS, Effects())
    here.handle(Settle(seed_id=seed_id, outcome=SeedStatus.ACCEPTED), NOW_MS, Effects())
    assert here.record(seed_id).progress.status is SeedStatus.ACCEPTED
    assert acknowledged(here, seed_id) == 0
