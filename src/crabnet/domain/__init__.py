"""The rules of the task network, pure: no clock, no randomness, no I/O."""
