"""The replicated state of a node: applying envelopes, records of them, and what waits."""
