"""Benchmarks of Crabnet: ``python -m bench`` (docs/PERFORMANCE.md)."""
