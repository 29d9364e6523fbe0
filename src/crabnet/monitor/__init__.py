"""What the operator can watch: events, written to ``events.ndjson`` and read back without locks."""
