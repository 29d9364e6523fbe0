"""The archive: immutable segments of rows that were moved out of memory, and their index."""
