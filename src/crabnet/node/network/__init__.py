"""What a node does with its socket: receiving, verifying, sending, serving."""
