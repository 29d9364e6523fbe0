"""What a node does with its disk: commits, checkpoints, archive, index."""
