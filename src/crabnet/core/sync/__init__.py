"""Communication with neighbours: what is missing, which neighbour to ask, and what to relay."""
