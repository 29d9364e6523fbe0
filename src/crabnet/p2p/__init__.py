"""The libp2p process of a node (ADR 43).

libp2p is a large library that strangers talk to, and some of what they send ends its process. So it runs in a child of
the node, which starts it again. The process verifies what arrives as far as bytes tell, and passes it on to the node.
"""
