"""The ledger: an append-only journal, its checkpoints, the data-dir lock and a disposable index.

The package is generic on purpose. It stores opaque bytes and knows nothing about seeds or envelopes. See
docs/STORAGE.md.
"""
