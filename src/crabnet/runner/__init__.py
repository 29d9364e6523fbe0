"""Running a publisher's command: what may run (``policy``), and running it (``execute``).

Linux only. Nothing here confines what a permitted command does with files or the network: see ``policy``.
"""
