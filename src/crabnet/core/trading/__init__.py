"""What a node buys and sells by itself, by policy (ADR 44)."""
