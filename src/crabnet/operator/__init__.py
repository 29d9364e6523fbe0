"""Tools of the operator: audit, repair, export and import, comparison. See docs/OPERATIONS.md."""
