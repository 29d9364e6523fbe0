"""How much may come: of sources, and of authors."""
