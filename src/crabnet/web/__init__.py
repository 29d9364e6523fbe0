"""The web process: HTTP for the operations of a node. It is a client of the node's control socket (ADR 37)."""
