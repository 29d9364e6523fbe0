"""Events for the operator: written to ``events.ndjson`` and read back without locks."""
