"""Clients of a node's control socket. Standard library only, so that commands start at once."""
