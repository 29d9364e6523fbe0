"""Writing, reading and surveying the journal, which consists of segments of frames."""
