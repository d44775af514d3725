"""WHAT runs, in which order, on which files."""
