"""Benchmarks: `make bench` prints every table; `python -m benchmarks append batches` prints some."""
