"""The checkpoint: the whole state in one file, which replaces the previous one."""
