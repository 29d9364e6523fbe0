"""The ``crabnet`` command. Modules import lazily: a command loads only what it needs."""
