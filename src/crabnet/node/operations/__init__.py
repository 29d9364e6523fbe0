"""What a node is asked to do, by programs and over its control socket."""
