"""Lattice dynamics: force constants, phonons and thermodynamics, for the modules to share."""
