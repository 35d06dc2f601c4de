"""Structures: frames, supercells, molecules and clusters, for the modules to share."""
