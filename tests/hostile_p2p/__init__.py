"""Attacks over libp2p, by layer."""

from crabnet.p2p.stand_in import without_fastecdsa

without_fastecdsa()  # before any of the modules imports libp2p
