"""Rate limits and budgets, for sources and for authors (docs/PROTOCOL.md, section 9, and ADR 17)."""
