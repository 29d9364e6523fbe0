"""The operations that programs request of a node, directly or over its control socket."""
