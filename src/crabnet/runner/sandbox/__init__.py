"""What is put around a run: modes, profiles and limits (``model``), control groups (``cgroups``), the arguments of
bubblewrap (``bwrap``), the order to the supervisor (``orders``), and finding out what this machine can do (``survey``).
"""
