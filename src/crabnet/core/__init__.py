"""``handle(input, now) -> effects``: pure, drives everything; the node does what the effects say."""
