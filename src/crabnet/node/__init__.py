"""The only wiring of core, ledger, transports, runner and monitor, and the node's background jobs."""
