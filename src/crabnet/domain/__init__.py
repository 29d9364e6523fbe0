"""The rules of the task network. This package is pure: it has no clock, no randomness and no I/O."""
