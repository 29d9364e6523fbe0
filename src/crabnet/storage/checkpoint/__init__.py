"""The checkpoint: all that is held, in one file that replaces the one before."""
