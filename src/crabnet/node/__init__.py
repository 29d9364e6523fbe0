"""The node's background jobs, and the only place that connects core, ledger, transports, runner and monitor."""
