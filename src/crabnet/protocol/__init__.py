"""What nodes say to each other, pure and sans-IO: bytes and ``now`` in, values out."""
