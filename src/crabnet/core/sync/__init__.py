"""Talk with neighbours: what is missing, whom to ask, and what to pass on."""
