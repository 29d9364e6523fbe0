"""The processes that a node keeps beside itself: started, greeted, watched, started again, and ended with the node.

``crabnet.child`` is the other end. ``docs/adr/0033-child-processes.md`` says why it is so, and how to add a child.
"""
