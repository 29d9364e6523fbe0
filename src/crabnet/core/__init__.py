"""The core of a node: ``handle(input, now) -> effects``. It is pure. The node carries out the effects."""
