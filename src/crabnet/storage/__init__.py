"""The ledger: an append-only journal, its checkpoints, the data-dir lock and a disposable index.

Generic on purpose: it stores opaque bytes and knows nothing of seeds or envelopes. See docs/STORAGE.md.
"""
