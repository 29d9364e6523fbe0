"""Running a publisher's command: which commands may run (``policy``), and running them (``execute``).

Linux only. The policy does not confine what a permitted command does with files or the network: see ``policy``.
"""
