"""The messages between nodes. This package is pure and sans-IO: it takes bytes and ``now`` and returns values."""
