"""The node's work with its disk: commits, checkpoints, archive, index."""
