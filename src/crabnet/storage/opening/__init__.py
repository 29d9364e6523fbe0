"""What a data dir is opened from, and repairs."""
