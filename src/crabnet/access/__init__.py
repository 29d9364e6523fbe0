"""Who may use a node through its HTTP door: tokens, their file, and bounds for failed attempts (ADR 38)."""
