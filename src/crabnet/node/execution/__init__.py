"""Running what was claimed for this node."""
