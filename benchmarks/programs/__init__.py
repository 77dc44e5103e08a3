"""Models and guides of Pyro's example files, unchanged, with small data."""
