"""The kinds of adversaries that a random plan chooses from."""

from __future__ import annotations

from tests.sim.adversaries import BidSpammer, Cheat, Flooder, Forger, Replayer
from tests.sim.adversary import Adversary
from tests.sim.crowders import Crowd, Cycler, HeadLiar, Namer, Parker, VoidFlooder
from tests.sim.forkers import Descender, Equivocator, ForkingCreator, ForkingWorker

KINDS: dict[str, type[Adversary]] = {
    "forger": Forger,
    "replayer": Replayer,
    "equivocator": Equivocator,
    "flooder": Flooder,
    "spammer": BidSpammer,
    "cheat": Cheat,
    "creator": ForkingCreator,
    "worker": ForkingWorker,
    "descender": Descender,
    "crowd": Crowd,
    "parker": Parker,
    "cycler": Cycler,
    "void": VoidFlooder,
    "namer": Namer,
    "heads": HeadLiar,
}
