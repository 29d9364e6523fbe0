"""Lets libp2p be imported without ``fastecdsa``, which it requires for keys of the kind P-256 (ADR 43).

Crabnet uses Ed25519 keys only. libp2p 0.8.1 imports ``fastecdsa`` for the protocol secio, which this process does not
offer, and cannot read P-256 keys of peers in any case. The package has no wheels, so it would need a C compiler.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType


class _Unused:
    """Stands for what is never used. Raises NotImplementedError when it is."""

    def __init__(self, *_: object) -> None:
        raise NotImplementedError("keys of the kind P-256 are not supported")


def without_fastecdsa() -> None:
    """Put modules in the place of ``fastecdsa`` if it is not installed. Call this before libp2p is imported."""
    if "fastecdsa" in sys.modules or find_spec("fastecdsa") is not None:
        return
    curve = _module("fastecdsa.curve", Curve=_Unused, P256=None)
    keys = _module("fastecdsa.keys", PEMEncoder=None)
    point = _module("fastecdsa.point", Point=_Unused)
    util = _module("fastecdsa.encoding.util", int_bytelen=lambda number: (number.bit_length() + 7) // 8)
    sec1 = _module("fastecdsa.encoding.sec1", SEC1Encoder=_Unused)
    encoding = _module("fastecdsa.encoding", util=util, sec1=sec1)
    _module("fastecdsa", curve=curve, keys=keys, point=point, encoding=encoding)


def _module(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module
