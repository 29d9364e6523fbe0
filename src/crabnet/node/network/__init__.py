"""The node's work with its sockets: receiving, verifying, sending, serving."""
