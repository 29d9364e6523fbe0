"""The journal: segments of frames, written, read and surveyed."""
