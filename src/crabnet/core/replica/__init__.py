"""The replicated state of a node. It applies envelopes, makes their journal records, and parks those that wait."""
