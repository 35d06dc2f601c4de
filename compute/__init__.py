"""Compute modules, their contract, and the runner that executes them."""
