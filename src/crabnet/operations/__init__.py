"""The operations of a node: one table, from which every door to a node is derived (ADR 32).

Each operation is one value of ``Operation``: its name, its types, its rights, its Reasons and its documentation. The
control socket, the HTTP API, the OpenAPI document, Python programs and docs/CONTROL.md take them from ``table``.
"""
