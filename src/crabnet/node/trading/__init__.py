"""What a node buys and sells by itself: the part of it that needs a clock, processes and this machine (ADR 44)."""
