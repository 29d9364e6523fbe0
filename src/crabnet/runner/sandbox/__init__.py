"""The confinement of a run: modes, profiles and limits (``model``), control groups (``cgroups``), the arguments of
bubblewrap (``bwrap``), the order to the supervisor (``orders``), a seed's requests (``requests``), and the removal of
what killed processes left (``leftovers``). ``runner.self_test`` finds out what this machine can do.
"""
