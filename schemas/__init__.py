"""Schemas: keys, kinds, settings, runs and errors; imports nothing of h5ml."""
