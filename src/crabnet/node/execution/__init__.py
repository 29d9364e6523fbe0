"""Runs the commands of tasks that were claimed for this node."""
