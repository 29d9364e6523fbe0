"""The web process. It knows operations, never a node."""
