"""The index of the event files: a disposable, sealed SQLite file beside them (docs/STORAGE.md, ADR 34).

It contains no events. It says which blocks of which files may have what a query wants. Events come from the files.
"""
