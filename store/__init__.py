"""The store: keyed datasets with provenance over an HDF5 or Icechunk engine."""
