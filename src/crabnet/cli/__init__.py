"""The ``crabnet`` command. Modules are imported lazily, so a command loads only what it needs."""
