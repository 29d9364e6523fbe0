"""Sends alerts to webhooks, services and commands: a process beside the node, and a client of its control socket."""
