"""The archive: immutable segments of rows that left memory, and their index."""
