"""Clients of a node's control socket. They use only the standard library, so that commands start quickly."""
