"""Moving datagrams between nodes. What they mean, and whether to believe them, is the protocol's business."""
